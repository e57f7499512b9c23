"""The page in a real browser: Debian's Chromium, driven by Playwright, from a file and without a network."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from detkd.evaluation.side import Run, make_run
from detkd.evaluation.truth import load_truth
from detkd.report.comparison import Comparison, compare
from detkd.report.leaderboard import rank
from tests.evaluation.worlds import make_detections
from tests.report.conftest import KNOWN, QUICK, run_of, side_of, world

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium: apt-get install chromium")

HOSTILE = "</script><img src=x onerror=alert(1)>"
NUMBER = r"""
() => {
  const report = JSON.parse(document.getElementById("report").textContent);
  const steps = (path) => [...path.matchAll(/\.?([A-Za-z_]\w*)|\[(\d+)\]|\[("(?:[^"\\]|\\.)*")\]/g)]
    .map((m) => m[1] ?? (m[2] !== undefined ? Number(m[2]) : JSON.parse(m[3])));
  return [...document.querySelectorAll("[data-path]")].map((node) => ({
    path: node.dataset.path, as: node.dataset.as, text: node.textContent,
    value: steps(node.dataset.path).reduce((value, step) => value == null ? null : value[step] ?? null, report),
  }));
}
"""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """Real pictures, a hostile class name, all four sides."""
    folder = tmp_path_factory.mktemp("set")
    gt = world(40)
    gt["categories"][1]["name"] = HOSTILE
    rng = np.random.default_rng(0)
    for image in gt["images"]:
        image["file_name"] = f"{image['id']}.jpg"
        cv2.imwrite(str(folder / image["file_name"]), rng.integers(0, 255, (480, 640, 3), dtype=np.uint8))
    (folder / "gt.json").write_text(json.dumps(gt))
    truth = load_truth(folder / "gt.json")

    def run(seed: int, noise: float, **more: Any) -> Run:
        found = make_detections(gt, seed, noise=noise, decimals=4)
        return make_run(truth, found, source=f"{seed}.json", seed=seed, settings={**KNOWN, **more})

    cost = {"params": 5, "gflops": 2.0, "size_mb": 3.0, "latency_ms": 9.0, "latency_p95_ms": 11.0, "device": "CPU",
            "head": "one2many+nms", "imgsz": 640, "runtime": "PyTorch", "runs": 50, "conf": 0.25}  # fmt: skip
    return compare(
        side_of("old", "before", run(1, 0.2, conf=0.01), cost=cost),
        side_of("new", "after", run(2, 0.05), cost=cost),
        control=side_of("plain", "control", run(3, 0.15), cost=cost),
        teacher=side_of("big", "teacher", run(4, 0.02), cost=cost),
        settings=QUICK,
        pictures={"images": folder, "frames": 6},
        progress=False,
    )


@pytest.fixture(scope="module")
def page_file(comparison: Comparison, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return comparison.write(tmp_path_factory.mktemp("page"))["html"]


class Visit:
    """An opened page and everything that went wrong on it."""

    def __init__(self, browser: Any, file: Path, width: int, **options: Any) -> None:
        self.page = browser.new_page(viewport={"width": width, "height": 900}, **options)
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda said: self.errors.append(said.text) if said.type == "error" else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(file.as_uri())

    def text(self, selector: str) -> str:
        return str(self.page.locator(selector).first.inner_text())


@pytest.fixture
def visit(chromium: Any, page_file: Path) -> Iterator[Visit]:
    opened = Visit(chromium, page_file, 1400)
    yield opened
    assert opened.errors == []
    assert [url for url in opened.requests if not url.startswith(("file:", "data:"))] == []
    opened.page.close()


def test_every_number_is_that_of_the_json(visit: Visit, comparison: Comparison) -> None:
    """Rounded by other code than the page's own: within half a unit of the last digit shown."""
    assert json.loads(visit.page.locator("#report").text_content()) == comparison.to_dict()
    found = visit.page.evaluate(NUMBER)
    assert len(found) > 500
    checked = 0
    for entry in found:
        value, text = entry["value"], entry["text"].replace("\N{MINUS SIGN}", "-").replace(",", "")
        if value is None:
            assert text == "n/a", entry
        elif isinstance(value, (int, float)) and not isinstance(value, bool) and entry["as"] not in ("text", "p", "M"):
            share = entry["as"].startswith("%")
            digits = len(text.rstrip("%").partition(".")[2])
            assert float(text.rstrip("%")) == pytest.approx(100 * value if share else value, abs=0.5001 * 10**-digits)
            checked += 1
    assert checked > 400
    assert comparison.verdict["sentence"] in visit.text(".hero")
    assert comparison.control_verdict["sentence"] in visit.text(".hero")  # type: ignore[index]


def test_settings_that_differ_are_red_and_first(visit: Visit) -> None:
    red = visit.page.locator("#trust tr.differs, #trust .differs").first
    red.scroll_into_view_if_needed()
    assert "conf" in red.text_content()
    background = red.evaluate("node => getComputedStyle(node).backgroundColor")
    assert background != visit.page.locator("#trust .card").first.evaluate("n => getComputedStyle(n).backgroundColor")
    assert "conf differs: old 0.01, new 0.001" in visit.text("#better .note.differs")


def test_metric_class_and_verdict_filters(visit: Visit, comparison: Comparison) -> None:
    page = visit.page
    classes = comparison.before.runs[0].truth.names
    assert visit.text("#class-count") == f"{len(classes)} of {len(classes)} classes"
    for metric in ("AP50", "AP75", "AR100", "AP"):
        page.click(f"#metric button[data-set={metric}]")
        shown = page.locator(f".metric.on[data-metric={metric}] .tall tbody tr")
        names = shown.evaluate_all("rows => rows.map((row) => row.dataset.name)")
        rows = {name: comparison.row(f"{metric}/{name}") for name in classes}
        judged = [rows[name].delta for name in names if rows[name].delta is not None]
        assert judged == sorted(judged)  # regressions first
    page.fill("#class-filter", "CA")
    assert visit.text("#class-count") == "1 of 4 classes"
    page.fill("#class-filter", "no such class")
    assert page.locator(".metric.on .tall .none").is_visible()
    page.fill("#class-filter", "")
    for word in ("improved", "regressed", "no visible difference", "not judged"):
        page.select_option("#verdict-filter", word)
        many = sum(comparison.row(f"AP/{name}").contrast.verdict == word for name in classes)
        assert visit.text("#class-count") == f"{many} of 4 classes"


def test_crops_can_be_filtered(visit: Visit, comparison: Comparison) -> None:
    page, objects = visit.page, comparison.gallery["objects"]
    page.locator("#crops").scroll_into_view_if_needed()
    page.wait_for_selector("#crops-grid figure")
    assert page.locator("#crops-grid figure").count() == min(24, len(objects))
    assert page.locator("#crops-grid figure").first.locator(".pane").count() == 3
    for key, value in (("kind", "lost"), ("class", "car"), ("size", "small"), ("class", HOSTILE)):
        page.click("#crops-reset")
        page.select_option(f"#crops select[data-filter={key}]", value)
        fit = [item for item in objects if item[key] == value]
        said = visit.text("#crops-count")
        assert said.endswith(f"of {len(fit)} objects") if fit else said == "No object fits the filters."
    page.click("#crops-reset")
    page.select_option("#crops select[data-field=camera]", "yard")
    fit = [item for item in objects if item["fields"]["camera"] == "yard"]
    assert visit.text("#crops-count").endswith(f"of {len(fit)} objects")
    sizes = page.locator("#crops-grid img").evaluate_all("all => all.map((one) => one.naturalWidth)")
    assert sizes
    assert all(size > 0 for size in sizes)


def test_whole_images_by_keyboard(visit: Visit, comparison: Comparison) -> None:
    page, frames = visit.page, comparison.gallery["frames"]
    page.locator("#frames").scroll_into_view_if_needed()
    page.wait_for_selector("#frame img")
    page.focus("#frames")
    for key, number in (("ArrowRight", 2), ("ArrowRight", 3), ("ArrowLeft", 2), ("ArrowLeft", 1), ("ArrowLeft", 6)):
        page.keyboard.press(key)
        assert visit.text("#frame-count") == f"image {number} of {len(frames)}"
        assert frames[number - 1]["image"] in visit.text("#frame figcaption")
    boxes = page.locator("#frame rect:not(.halo)")
    for role in ("truth", "before", "after", "teacher", "control"):
        tick = page.locator(f"#frames input[data-role={role}]")
        tick.set_checked(True)
        before = boxes.count()
        tick.set_checked(False)
        assert before - boxes.count() == len(frames[5]["boxes"][role])
    page.focus("#frames")
    page.keyboard.press("t")
    assert page.locator("#frames input[data-role=truth]").is_checked()


def test_curves_can_be_read_at_any_recall_and_class(visit: Visit, comparison: Comparison) -> None:
    page = visit.page
    page.locator("#pr-at").scroll_into_view_if_needed()
    page.locator("#pr-at").evaluate("node => { node.value = 40; node.dispatchEvent(new Event('input')); }")
    curves = comparison.diagnosis["entries"]["new"]["curves"]
    point = next(one for one in curves["all"] if one[0] >= 0.395)
    line = page.locator("#pr-out div").filter(has=page.locator(".chip.after")).text_content()
    assert f"precision {point[1]:.2f} at score {point[2]:.2f}" in " ".join(line.split())
    start = page.locator("[data-chart=pr] .curve.after").get_attribute("points")
    page.select_option("#pr-class", "car")
    drawn = page.locator("[data-chart=pr] .curve.after").get_attribute("points")
    assert drawn != start
    assert len(drawn.split()) == len(curves["per_class"]["car"])


def test_dark_and_light(chromium: Any, page_file: Path) -> None:
    color = "getComputedStyle(document.body).backgroundColor"
    colors = {}
    for scheme in ("light", "dark"):
        opened = Visit(chromium, page_file, 1400, color_scheme=scheme)
        colors[scheme] = opened.page.evaluate(color)
        opened.page.click("#theme")
        colors[f"{scheme} switched"] = opened.page.evaluate(color)
        assert opened.errors == []
        opened.page.close()
    assert colors["light"] == colors["dark switched"] != colors["dark"] == colors["light switched"]


def test_phone_has_no_sideways_scroll(chromium: Any, page_file: Path) -> None:
    opened = Visit(chromium, page_file, 390, device_scale_factor=2)
    for section in ("better", "where", "why", "show", "trust"):
        opened.page.locator(f"#{section}").scroll_into_view_if_needed()
        opened.page.wait_for_timeout(100)
    assert opened.page.evaluate("document.documentElement.scrollWidth") == 390
    small = opened.page.evaluate(
        """() => [...document.querySelectorAll("svg text")].filter((node) => node.getBoundingClientRect().height > 0
        && parseFloat(getComputedStyle(node).fontSize) < 10).length"""
    )
    assert small == 0
    assert opened.errors == []
    opened.page.close()


def test_paper_shows_everything(visit: Visit) -> None:
    visit.page.emulate_media(media="print")
    assert not visit.page.locator(".top").is_visible()
    for metric in ("AP50", "AR100"):
        assert visit.page.locator(f".metric[data-metric={metric}]").is_visible()
    assert visit.page.pdf()[:4] == b"%PDF"


def test_readable_without_scripts(chromium: Any, page_file: Path, comparison: Comparison) -> None:
    opened = Visit(chromium, page_file, 1400, java_script_enabled=False)
    assert comparison.verdict["sentence"] in opened.text(".hero")
    assert opened.page.locator("#where .rows tbody tr").count() > 20
    assert not opened.page.locator("#crops").is_visible()
    opened.page.close()


def test_keyboard_reaches_the_content_first(visit: Visit) -> None:
    visit.page.keyboard.press("Tab")
    assert visit.page.evaluate("document.activeElement.className") == "skip"
    unnamed = visit.page.evaluate(
        """() => [...document.querySelectorAll("button, select, input")].filter((node) => !(node.getAttribute("aria-label")
        || node.textContent.trim() || node.closest("label")?.textContent.trim() || node.title)).map((n) => n.outerHTML)"""
    )
    assert unnamed == []


def test_leaderboard(chromium: Any, tmp_path: Path) -> None:
    gt = world(40)
    sides = [side_of(name, "run", run_of(gt, n, noise)) for n, (name, noise) in enumerate({"a": 0.2, HOSTILE: 0.1, "c": 0.05}.items())]  # fmt: skip
    board = rank(sides, "a", settings=QUICK, progress=False)
    file = board.write(tmp_path)["html"]
    for width in (1400, 390):
        opened = Visit(chromium, file, width)
        assert opened.errors == []
        assert json.loads(opened.page.locator("#report").text_content()) == board.to_dict()
        found = opened.page.evaluate(NUMBER)
        assert len(found) > 20
        assert all((entry["text"] == "n/a") == (entry["value"] is None) for entry in found)
        assert opened.page.evaluate("document.documentElement.scrollWidth") == width
        names = opened.page.locator("table").first.locator("tbody tr").all_inner_texts()
        assert [side.name in row for side, row in zip(board.sides, names, strict=False)] == [True] * 3
        opened.page.close()
