"use strict";
// Everything here is filters and pictures: numbers and charts are in the page without it.
document.documentElement.classList.add("js");
document.addEventListener("DOMContentLoaded", () => {
  const $ = (selector, at = document) => at.querySelector(selector);
  const $$ = (selector, at = document) => [...at.querySelectorAll(selector)];
  const SVG = "http://www.w3.org/2000/svg";
  const make = (tag, style = "", text = "") => {
    const node = document.createElement(tag);
    if (style) node.className = style;
    if (text) node.textContent = text; // never markup: names come from anywhere
    return node;
  };
  const parsed = {};
  const data = (id) => (parsed[id] ??= JSON.parse($("#" + id).textContent));

  // Dark or light: the system's choice until the button is pressed, and then for this visit.
  const dark = matchMedia("(prefers-color-scheme: dark)");
  $("#theme").addEventListener("click", () => {
    const now = document.documentElement.dataset.theme ?? (dark.matches ? "dark" : "light");
    document.documentElement.dataset.theme = now === "dark" ? "light" : "dark";
  });

  const links = new Map($$("nav a").map((link) => [link.hash.slice(1), link]));
  const mark = () => {
    let now = null;
    for (const id of links.keys()) if (document.getElementById(id).getBoundingClientRect().top < innerHeight * 0.4) now = id;
    now ??= links.keys().next().value;
    for (const [id, link] of links) id === now ? link.setAttribute("aria-current", "true") : link.removeAttribute("aria-current");
  };
  let waiting = false;
  addEventListener("scroll", () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; mark(); });
  }, { passive: true });
  mark();

  // Metric, class and verdict.
  const rows = $$("[data-name]");
  const more = (box) => {
    const line = box.nextElementSibling;
    if (!line?.classList.contains("more")) return;
    line.hidden = box.scrollHeight <= box.clientHeight + 1;
    line.textContent = `${$$("tbody tr", box).filter((row) => !row.hidden).length} classes, scroll or filter`;
  };
  const sized = new ResizeObserver((seen) => { for (const one of seen) more(one.target); });
  for (const box of $$(".tall")) sized.observe(box);
  const filter = () => {
    const text = $("#class-filter")?.value.trim().toLowerCase() ?? "", verdict = $("#verdict-filter")?.value ?? "";
    for (const box of $$(".tall")) {
      let seen = 0;
      const all = $$("tbody tr", box);
      for (const row of all) {
        const fits = row.dataset.name.toLowerCase().includes(text) && (!verdict || row.dataset.verdict === verdict);
        row.hidden = !fits;
        row.style.display = fits ? "" : "none";
        seen += fits;
      }
      $(".none", box).hidden = seen > 0;
      more(box);
      if (!box.closest(".metric") || box.closest(".metric.on")) $("#class-count").textContent = `${seen} of ${all.length} classes`;
    }
  };
  for (const button of $$("#metric button")) {
    button.addEventListener("click", () => {
      for (const other of $$("#metric button")) other.setAttribute("aria-pressed", String(other === button));
      for (const part of $$(".metric")) part.classList.toggle("on", part.dataset.metric === button.dataset.set);
      filter();
    });
  }
  $("#class-filter")?.addEventListener("input", filter);
  $("#verdict-filter")?.addEventListener("change", filter);
  if (rows.length && $("#class-count")) filter();

  // Precision and recall: another class, and what the curves say at a recall.
  const plane = $('[data-chart="pr"]');
  if (plane && $("#pr-at")) {
    const report = data("report"), found = report.diagnosis.entries;
    const sides = report.entries.filter((entry) => found[entry.name]);
    const chart = $("svg", plane), at = $("#pr-at"), out = $("#pr-out"), choice = $("#pr-class");
    const cross = document.createElementNS(SVG, "line");
    for (const [key, value] of [["class", "cross"], ["y1", "0"], ["y2", "100%"]]) cross.setAttribute(key, value);
    chart.append(cross);
    const points = (entry) => {
      const curves = found[entry.name].curves;
      return (choice.value ? curves.per_class[choice.value] : curves.all) ?? [];
    };
    const read = () => {
      const recall = at.value / 100;
      for (const key of ["x1", "x2"]) cross.setAttribute(key, `${recall * 100}%`);
      out.replaceChildren(...sides.map((entry) => {
        const line = make("div"), curve = points(entry);
        const point = curve.find((one) => one[0] >= recall - 0.005);
        line.append(make("span", `chip ${entry.role}`, entry.role));
        line.append(make("span", "", point ? `precision ${point[1].toFixed(2)} at score ${point[2] === null ? "n/a" : point[2].toFixed(2)}` : curve.length ? "never finds so many" : "nothing to draw"));
        return line;
      }));
    };
    const draw = () => {
      for (const entry of sides) {
        const best = choice.value ? found[entry.name].working_point?.per_class[choice.value] : found[entry.name].working_point;
        $(`.curve.${entry.role}`, chart).setAttribute("points", points(entry).map((p) => `${p[0] * 100},${100 - p[1] * 100}`).join(" "));
        const dot = $(`.dot.${entry.role}`, chart)?.parentNode;
        if (!dot) continue;
        dot.style.display = best?.recall == null || best.precision == null ? "none" : "";
        dot.setAttribute("x", `${(best?.recall ?? 0) * 100}%`);
        dot.setAttribute("y", `${100 - (best?.precision ?? 0) * 100}%`);
      }
      read();
    };
    const point = (event) => {
      const box = chart.getBoundingClientRect();
      at.value = Math.round(Math.min(1, Math.max(0, (event.clientX - box.left) / box.width)) * 100);
      read();
    };
    plane.addEventListener("pointermove", point);
    plane.addEventListener("pointerdown", point);
    at.addEventListener("input", read);
    choice.addEventListener("change", draw);
    read();
  }

  // Pictures: data URIs stay in the JSON until their page of 24 is shown.
  const picture = (item, roles, { target = false, tags = false } = {}) => {
    const view = make("div", "view"), named = [], image = make("img"), over = document.createElementNS(SVG, "svg");
    image.alt = "";
    image.decoding = "async";
    image.width = item.width;
    image.height = item.height;
    if (/^data:image\//.test(item.uri)) image.src = item.uri;
    over.setAttribute("viewBox", `0 0 ${item.width} ${item.height}`);
    over.setAttribute("aria-hidden", "true");
    for (const role of roles) {
      for (const one of item.boxes[role] ?? []) {
        const said = `${one.class}${one.score == null ? "" : ` ${one.score.toFixed(2)}`}`;
        if (tags) named.push({ node: make("span", `tag ${role}`, said), box: one.box });
        const styles = [role];
        if (one.hit === false) styles.push("wrong");
        if (target && role === "truth" && !one.target) styles.push("other");
        for (const style of ["halo", styles.join(" ")]) {
          const rect = document.createElementNS(SVG, "rect");
          ["x", "y", "width", "height"].forEach((key, k) => rect.setAttribute(key, one.box[k]));
          rect.setAttribute("class", style);
          if (style !== "halo") {
            const title = document.createElementNS(SVG, "title");
            title.textContent = `${role}: ${said}`;
            rect.append(title);
          }
          over.append(rect);
        }
      }
    }
    view.append(image, over, ...named.map((one) => one.node));
    if (tags) new ResizeObserver(() => place(view, item, named)).observe(view);
    return view;
  };
  // Labels keep their size on every screen; each goes to the corner of its box where it hides the least of the others.
  const place = (view, item, named) => {
    const wide = view.clientWidth, high = view.clientHeight, taken = [], sizes = named.map(({ node }) => [node.offsetWidth, node.offsetHeight]);
    named.forEach(({ node, box }, k) => {
      const [w, h] = sizes[k], scale = wide / item.width, [x, y, width, height] = box.map((value) => value * scale);
      let best = null;
      for (const top of [y - h, y + height, y, y + height - h]) {
        for (const left of [x, x + width - w, x + (width - w) / 2]) {
          const at = [Math.max(0, Math.min(left, wide - w)), Math.max(0, Math.min(top, high - h))];
          const hides = taken.reduce((sum, [a, b, c, d]) => sum + Math.max(0, Math.min(at[0] + w, a + c) - Math.max(at[0], a)) * Math.max(0, Math.min(at[1] + h, b + d) - Math.max(at[1], b)), 0);
          if (!best || hides < best.hides) best = { at, hides };
        }
      }
      taken.push([...best.at, w, h]);
      node.style.translate = `${best.at[0]}px ${best.at[1]}px`;
    });
  };
  const words = (fields) => Object.entries(fields ?? {}).map(([key, value]) => `${key} ${value}`).join(", ");
  const soon = (node, run) => {
    const watch = new IntersectionObserver((seen) => {
      if (seen.some((one) => one.isIntersecting)) { watch.disconnect(); run(); }
    }, { rootMargin: "600px" });
    watch.observe(node);
    addEventListener("beforeprint", () => { watch.disconnect(); run(); }, { once: true });
  };

  if ($("#crops")) {
    const SIZE = 24, grid = $("#crops-grid"), choices = $$("#crops select");
    let page = 0;
    const card = (item) => {
      const box = make("figure", `crop ${item.kind}`), panes = make("div", "panes"), text = make("figcaption");
      for (const role of ["truth", "before", "after"]) {
        const pane = make("div", `pane ${role}`), score = item[`score_${role}`];
        pane.append(picture(item, [role], { target: true }));
        pane.append(make("p", "", role === "truth" ? "truth" : `${role} ${score == null ? "missed" : score.toFixed(2)}`));
        panes.append(pane);
      }
      text.append(make("strong", item.kind === "gained" ? "good" : "bad", item.kind), make("span", "name", item.class), make("span", "", item.size), make("small", "", [item.image, words(item.fields)].filter(Boolean).join(" · ")));
      box.append(panes, text);
      return box;
    };
    // How many objects each choice would leave, given the other choices.
    const has = (item, one, value) => String(one.dataset.filter ? item[one.dataset.filter] : item.fields?.[one.dataset.field]) === value;
    const chosen = (except = null) => data("gallery").objects.filter((item) => choices.every((one) => one === except || !one.value || has(item, one, one.value)));
    const recount = () => {
      for (const one of choices) {
        const left = chosen(one);
        for (const option of one.options) {
          if (!option.value) continue;
          const many = left.filter((item) => has(item, one, option.value)).length;
          option.textContent = `${option.value} (${many})`;
          option.disabled = !many;
        }
      }
    };
    const show = () => {
      recount();
      const fit = chosen(), last = Math.max(0, Math.ceil(fit.length / SIZE) - 1);
      page = Math.min(page, last);
      const from = page * SIZE, part = fit.slice(from, from + SIZE);
      grid.replaceChildren(...part.map(card));
      $("#crops-count").textContent = fit.length ? `${from + 1} to ${from + part.length} of ${fit.length} objects` : "No object fits the filters.";
      $("#crops-prev").disabled = page === 0;
      $("#crops-next").disabled = page === last;
    };
    for (const one of choices) one.addEventListener("change", () => { page = 0; show(); });
    $("#crops-reset").addEventListener("click", () => { for (const one of choices) one.value = ""; page = 0; show(); });
    for (const [id, step] of [["#crops-prev", -1], ["#crops-next", 1]]) {
      $(id).addEventListener("click", () => { page += step; show(); $("#crops").scrollIntoView({ block: "start" }); });
    }
    soon($("#crops"), show);
  }

  if ($("#frames")) {
    const ticks = $$("#frames input"), box = $("#frames");
    let now = 0;
    const silent = (role) => {
      if (role === "truth") return "truth: no labelled object";
      const report = data("report"), name = report.entries.find((entry) => entry.role === role)?.name;
      const limit = report.diagnosis?.entries[name]?.working_point?.threshold;
      return limit == null ? `${role}: no box` : `${role}: no box above ${limit.toFixed(2)}`;
    };
    const show = () => {
      const frames = data("gallery").frames, item = frames[now], text = make("figcaption");
      text.append(make("b", "name", item.image), ` ${words(item.fields)} `);
      text.append(make("span", "good", `${item.gained} gained`), ", ", make("span", "bad", `${item.lost} lost`));
      const roles = ticks.filter((one) => one.checked).map((one) => one.dataset.role);
      for (const role of roles) if (!item.boxes[role]?.length) text.append(make("span", "silent", silent(role)));
      $("#frame").replaceChildren(picture(item, roles, { tags: true }), text);
      $("#frame-count").textContent = `image ${now + 1} of ${frames.length}`;
    };
    const go = (step) => {
      const many = data("gallery").frames.length;
      now = (now + step + many) % many;
      show();
    };
    $("#frame-prev").addEventListener("click", () => go(-1));
    $("#frame-next").addEventListener("click", () => go(1));
    for (const one of ticks) one.addEventListener("change", show);
    box.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.altKey || event.metaKey) return;
      const tick = ticks.find((one) => one.dataset.role[0] === event.key.toLowerCase());
      if (event.key === "ArrowLeft") go(-1);
      else if (event.key === "ArrowRight") go(1);
      else if (tick) { tick.checked = !tick.checked; show(); }
      else return;
      event.preventDefault();
    });
    soon(box, show);
  }

  // On paper everything is open.
  addEventListener("beforeprint", () => { for (const one of $$("details:not([open])")) { one.open = true; one.dataset.shut = ""; } });
  addEventListener("afterprint", () => { for (const one of $$("details[data-shut]")) { one.open = false; delete one.dataset.shut; } });
});
