"use strict";
document.documentElement.classList.add("js");
document.addEventListener("DOMContentLoaded", () => {
  const $ = (selector, at = document) => at.querySelector(selector);
  const $$ = (selector, at = document) => [...at.querySelectorAll(selector)];
  const SVG = "http://www.w3.org/2000/svg", SIZE = 24, NEAR = 8;
  const make = (tag, style = "", text = "") => {
    const node = document.createElement(tag);
    if (style) node.className = style;
    if (text) node.textContent = text; // never markup: names come from anywhere
    return node;
  };
  const draw = (tag, values) => {
    const node = document.createElementNS(SVG, tag);
    for (const [key, value] of Object.entries(values)) node.setAttribute(key, value);
    return node;
  };
  const data = JSON.parse($("#data").textContent), color = (k) => `oklch(83% .17 ${[210, 95, 335, 145, 290, 60, 250, 175][k % 8]})`;

  const dark = matchMedia("(prefers-color-scheme: dark)");
  $("#theme").addEventListener("click", () => {
    const now = document.documentElement.dataset.theme ?? (dark.matches ? "dark" : "light");
    document.documentElement.dataset.theme = now === "dark" ? "light" : "dark";
  });

  // What is rejected: kept by the browser where it allows that, so that a closed tab costs nothing.
  const key = `detkd-review-${data.key}`, images = new Set(), boxes = new Set(), others = new Map();
  const imageOf = new Map(data.images.map((image) => [image.id, image]));
  const boxOf = new Map(data.images.flatMap((image) => image.boxes.map((box) => [box[0], box])));
  let stored = true, dirty = false;
  // A list made for other answers: the id may be that of another box now, which nobody has rejected.
  const same = (box, place) => !place || place.every((value, k) => Math.abs(value - box[k + 3]) <= 1);
  const take = (entries) => {
    for (const entry of entries) {
      const id = typeof entry === "number" ? entry : entry?.id;
      if (!Number.isSafeInteger(id)) throw new TypeError("not a list of ids");
      if (imageOf.has(id)) images.add(id);
      else if (boxOf.has(id) && same(boxOf.get(id), entry.bbox)) boxes.add(id);
      else others.set(JSON.stringify(entry), entry); // of an earlier round: gone from this set, and must stay so
    }
  };
  const list = () => [...others.values(), ...images, ...[...boxes].map((id) => ({ id, bbox: boxOf.get(id).slice(3) }))];
  const keep = () => {
    dirty = true;
    try { localStorage.setItem(key, JSON.stringify(list())); } catch { stored = false; }
    $("#kept").textContent = stored ? "" : "This browser keeps nothing for files: save before you close the page.";
  };
  try { take(JSON.parse(localStorage.getItem(key) ?? "[]")); } catch { stored = false; }
  for (const entry of data.rejected) others.set(JSON.stringify(entry), entry);
  addEventListener("beforeunload", (event) => { if (dirty && !stored) event.preventDefault(); });

  const words = (count, one) => `${count.toLocaleString("en")} ${one}${count === 1 ? "" : one.endsWith("x") ? "es" : "s"}`;
  const paint = () => {
    for (const node of $$(".box, .tag")) {
      node.classList.toggle("out", boxes.has(Number(node.dataset.id)));
      if (node.matches(".box")) node.setAttribute("aria-pressed", String(boxes.has(Number(node.dataset.id))));
    }
    for (const node of $$("[data-image]")) node.classList.toggle("out", images.has(Number(node.dataset.image)));
    for (const node of $$("[data-drop]")) {
      const out = images.has(Number(node.dataset.drop));
      node.setAttribute("aria-pressed", String(out));
      node.textContent = out ? "Image rejected" : "Reject image";
    }
    const parts = [images.size && words(images.size, "image"), boxes.size && words(boxes.size, "box")].filter(Boolean);
    $("#count").textContent = parts.length ? `${parts.join(", ")} rejected` : "nothing rejected";
    $("#count").classList.toggle("some", parts.length > 0);
  };
  const toggle = (set, id) => {
    set.has(id) ? set.delete(id) : set.add(id);
    keep();
    paint();
  };

  $("#save").addEventListener("click", () => {
    const link = make("a"), text = list().map((entry) => JSON.stringify(entry)).join(",\n");
    link.href = URL.createObjectURL(new Blob([`[${text}]\n`], { type: "application/json" }));
    link.download = "rejected.json";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    dirty = false;
  });
  $("#load").addEventListener("change", async (event) => {
    const file = event.target.files[0];
    if (!file) return;
    try {
      take(JSON.parse(await file.text()));
      keep();
      show();
    } catch {
      $("#kept").textContent = `${file.name} is no list of rejected images and boxes.`;
    }
  });

  // Filters.
  const chosen = (id) => $(`#${id}`).value, number = (id, none) => (chosen(id) === "" ? none : Number(chosen(id)));
  const boxFits = (box) => (chosen("class") === "" || box[1] === Number(chosen("class"))) && box[2] >= number("low", 0) && box[2] <= number("high", 1);
  const narrowed = () => chosen("class") !== "" || number("low", 0) > 0 || number("high", 1) < 1;
  const touched = (image) => images.has(image.id) || image.boxes.some((box) => boxes.has(box[0]));
  const fits = (image) => {
    const state = chosen("state");
    if (chosen("source") !== "" && image.source !== chosen("source")) return false;
    if (state === "empty") return !image.boxes.length;
    if (state && touched(image) !== (state === "rejected")) return false;
    return !narrowed() || image.boxes.some(boxFits);
  };
  // How far above its class's threshold the weakest box is, as a share of what is possible.
  const doubt = (image) => Math.min(2, ...image.boxes.filter(boxFits).map((box) => { const limit = data.thresholds[box[1]] ?? 0; return (box[2] - limit) / Math.max(1 - limit, 1e-6); }));
  const orders = { set: () => 0, doubt: (a, b) => doubt(a) - doubt(b), many: (a, b) => b.boxes.length - a.boxes.length };
  const option = (select, value, text) => { const node = make("option", "", text); node.value = value; select.append(node); };
  const count = (k) => data.images.reduce((sum, image) => sum + image.boxes.filter((box) => box[1] === k).length, 0);
  data.names.forEach((name, k) => option($("#class"), k, `${name} (${count(k)})`));
  const sources = Map.groupBy ? Map.groupBy(data.images, (image) => image.source) : new Map(data.images.map((image) => [image.source, data.images.filter((one) => one.source === image.source)]));
  for (const [name, part] of sources) option($("#source"), name, `${name} (${part.length})`);
  const swatches = make("p", "swatches only-js");
  data.names.forEach((name, k) => {
    const entry = make("span"), sign = make("i");
    sign.style.setProperty("--c", color(k));
    entry.append(sign, make("span", "name", name));
    swatches.append(entry);
  });
  $("#tools").after(swatches);

  // Pictures.
  const said = (box) => `${data.names[box[1]]} ${box[2].toFixed(2)}`;
  const pick = (image, over, event) => {
    const place = over.getBoundingClientRect(), scale = image.width / place.width;
    const x = (event.clientX - place.left) * scale, y = (event.clientY - place.top) * scale, edge = NEAR * scale;
    const hit = ([, , , left, top, w, h]) => x >= left - edge && x <= left + w + edge && y >= top - edge && y <= top + h + edge;
    // The smallest one: a small box inside a large one can't be reached otherwise.
    return image.boxes.filter(hit).sort((a, b) => a[5] * a[6] - b[5] * b[6])[0];
  };
  const picture = (image, tags = false) => {
    const view = make("div", "view"), over = draw("svg", { viewBox: `0 0 ${image.width} ${image.height}`, role: "group", "aria-label": "boxes" });
    view.dataset.image = image.id;
    view.style.aspectRatio = `${image.width} / ${image.height}`;
    if (image.picture) {
      const shown = make("img");
      shown.alt = image.name;
      shown.decoding = "async";
      shown.src = image.picture;
      view.append(shown);
    } else {
      view.classList.add("gone");
      view.append(make("span", "", "can't be read"));
    }
    const named = [];
    for (const box of [...image.boxes].sort((a, b) => b[5] * b[6] - a[5] * a[6])) {
      const [id, k, , x, y, width, height] = box, group = draw("g", { class: "box", tabindex: 0, role: "button", "aria-label": said(box), "data-id": id });
      group.style.setProperty("--c", color(k));
      group.classList.toggle("dim", narrowed() && !boxFits(box));
      const title = draw("title", {});
      title.textContent = said(box);
      group.append(title, draw("rect", { x, y, width, height, class: "halo" }), draw("rect", { x, y, width, height, class: "line" }), draw("path", { d: `M${x} ${y}l${width} ${height}M${x + width} ${y}l${-width} ${height}`, class: "cross" }));
      group.addEventListener("keydown", (event) => {
        if (event.key !== "Enter" && event.key !== " ") return;
        event.preventDefault();
        toggle(boxes, id);
      });
      over.append(group);
      if (tags) {
        const tag = make("span", "tag", said(box));
        tag.dataset.id = id;
        tag.style.setProperty("--c", color(k));
        named.push({ tag, x, y, height });
      }
    }
    over.addEventListener("click", (event) => { const box = pick(image, over, event); if (box) toggle(boxes, box[0]); });
    view.append(over, ...named.map((one) => one.tag));
    if (tags) new ResizeObserver(() => {
      const scale = view.clientWidth / image.width;
      for (const { tag, x, y, height } of named) {
        const above = y * scale - tag.offsetHeight, top = above >= 0 ? above : Math.min((y + height) * scale, view.clientHeight - tag.offsetHeight);
        tag.style.translate = `${Math.max(0, Math.min(x * scale, view.clientWidth - tag.offsetWidth))}px ${top}px`;
      }
    }).observe(view);
    return view;
  };
  const where = (image) => [image.source, image.time == null ? "" : `${image.time.toFixed(1)} s`].filter(Boolean).join(" at ");
  const about = (image) => {
    const node = make("span", "about");
    node.append(make("span", "", image.name), make("small", "", [where(image), words(image.boxes.length, "box")].filter(Boolean).join(" · ")));
    return node;
  };
  const card = (image) => {
    const node = make("figure", "crop"), text = make("figcaption"), drop = make("button"), open = make("button", "", "Enlarge");
    node.dataset.image = drop.dataset.drop = image.id;
    drop.type = open.type = "button";
    drop.addEventListener("click", () => toggle(images, image.id));
    open.addEventListener("click", () => enlarge(fit.indexOf(image)));
    text.append(about(image), open, drop);
    node.append(picture(image), text);
    return node;
  };
  let page = 0, fit = [], large = 0;
  const show = () => {
    fit = data.images.filter(fits).sort(orders[chosen("order")]);
    const last = Math.max(0, Math.ceil(fit.length / SIZE) - 1);
    page = Math.min(page, last);
    const part = fit.slice(page * SIZE, (page + 1) * SIZE);
    $("#grid").replaceChildren(...part.map(card));
    for (const node of $$(".where")) node.textContent = fit.length ? `${page * SIZE + 1} to ${page * SIZE + part.length} of ${fit.length} images` : "No image fits the filters.";
    for (const node of $$(".prev")) node.disabled = page === 0;
    for (const node of $$(".next")) node.disabled = page === last;
    paint();
  };
  for (const [name, step] of [[".prev", -1], [".next", 1]]) {
    for (const node of $$(name)) node.addEventListener("click", () => { page += step; show(); $("#main").scrollIntoView(); });
  }
  for (const node of $$("#tools select, #tools input[type=number]")) node.addEventListener("change", () => { page = 0; show(); });
  $("#reset").addEventListener("click", () => {
    for (const node of $$("#tools select")) node.selectedIndex = 0;
    $("#low").value = 0;
    $("#high").value = 1;
    page = 0;
    show();
  });

  // One picture as large as the window.
  const enlarge = (index) => {
    large = (index + fit.length) % fit.length;
    const image = fit[large], view = picture(image, true), text = make("p", "caption");
    view.style.setProperty("--ratio", image.width / image.height);
    text.append(about(image));
    $("#large-body").replaceChildren(view, text);
    $("#drop").dataset.drop = image.id;
    if (!$("#large").open) $("#large").showModal();
    paint();
  };
  $("#before").addEventListener("click", () => enlarge(large - 1));
  $("#after").addEventListener("click", () => enlarge(large + 1));
  $("#drop").addEventListener("click", () => toggle(images, fit[large].id));
  $("#close").addEventListener("click", () => $("#large").close());
  $("#large").addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    if (event.key === "ArrowLeft") enlarge(large - 1);
    else if (event.key === "ArrowRight") enlarge(large + 1);
    else if (event.key.toLowerCase() === "x") toggle(images, fit[large].id);
    else return;
    event.preventDefault();
  });
  show();
});
