"""The review page in a real browser, from a file and without a network, and what becomes of what it saves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from detkd.errors import DataError
from detkd.report.review import write_review
from tests.report.test_browser import BROWSER, Visit, playwright

HOSTILE = "</script><img src=x onerror=alert(1)>"
NAMES = ("car", HOSTILE, "bus")
FIRST = 300_000_000_000
EARLIER = [FIRST + 900, {"id": (FIRST + 1) * 10_000 + 7, "bbox": [1.5, 2, 3, 4]}]

needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium: apt-get install chromium")


def write_set(folder: Path, count: int = 30, *, rejected: list[Any] | None = None) -> dict[str, Any]:
    """Images of 320 x 200; image i has i % 4 boxes of class i % 2, the larger the earlier, one inside the other."""
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for i in range(count):
        file = folder / "images" / (f"{i:03d}.jpg" if i else f"{HOSTILE.replace('/', '')}.jpg")
        file.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(file), rng.integers(0, 255, (200, 320, 3), dtype=np.uint8))
        image = {
            "id": FIRST + i,
            "file_name": str(file),
            "width": 320,
            "height": 200,
            "source": f"/footage/cam{i % 3}.mp4",
        }
        images.append({**image, "time_s": i / 2} if i % 3 else image)
        for row in range(i % 4):
            box = [40.0 + 20 * row, 30.0 + 20 * row, 160.0 - 50 * row, 100.0 - 30 * row]
            score = round(0.5 + 0.01 * i + 0.05 * row, 3)
            annotations.append({"id": (FIRST + i) * 10_000 + row, "image_id": FIRST + i, "category_id": 3 + i % 2, "bbox": box, "score": score})  # fmt: skip
    content = {"images": images, "annotations": annotations, "categories": [{"id": 3 + k, "name": n} for k, n in enumerate(NAMES)]}  # fmt: skip
    cut = {"threshold": 0.45, "precision": 0.814, "low": 0.7, "recall": 0.5, "objects": 1234, "reason": ""}
    facts = {"thresholds": {"car": cut, HOSTILE: {"threshold": 0.4}, "bus": {"threshold": None, "reason": "nothing was detected"}}}  # fmt: skip
    (folder / "annotations.json").write_text(json.dumps(content))
    (folder / "provenance.json").write_text(json.dumps({**facts, "rejected": rejected or [], "complete": True}))
    return content


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("pool")
    content = write_set(folder, rejected=EARLIER)
    return write_review(folder, side=160), content


@pytest.fixture
def visit(chromium: Any, made: tuple[Path, dict[str, Any]]) -> Iterator[Visit]:
    opened = Visit(chromium, made[0], 1400)
    yield opened
    assert opened.errors == []
    assert [url for url in opened.requests if not url.startswith(("file:", "data:", "blob:"))] == []
    opened.page.close()


def saved(page: Any) -> list[Any]:
    with page.expect_download() as waiting:
        page.click("#save")
    assert waiting.value.suggested_filename == "rejected.json"
    return list(json.loads(Path(waiting.value.path()).read_text()))


def figure(page: Any, number: int) -> Any:
    return page.locator(f"#grid figure[data-image='{FIRST + number}']")


def click_at(page: Any, number: int, x: float, y: float) -> None:
    """Click at a place given in pixels of the image."""
    over = figure(page, number).locator("svg")
    over.scroll_into_view_if_needed()
    place = over.bounding_box()
    page.mouse.click(place["x"] + x / 320 * place["width"], place["y"] + y / 200 * place["height"])


@needs_browser
def test_pictures_boxes_and_numbers(visit: Visit, made: tuple[Path, dict[str, Any]]) -> None:
    page, content = visit.page, made[1]
    sizes = page.locator("#grid img").evaluate_all("async (all) => (await Promise.all(all.map((one) => one.decode()))) && all.map((one) => one.naturalWidth)")  # fmt: skip
    assert sizes == [160] * 24
    assert f"{len(content['annotations'])} boxes in 30 images" in visit.text(".lead")
    assert "8 images have none and teach that nothing is there. 2 rejections were applied" in visit.text(".lead")
    rows = page.locator("tbody tr").all_inner_texts()
    assert rows[0].split() == ["car", str(sum(a["category_id"] == 3 for a in content["annotations"])), "0.450", "81%", "70%", "50%", "1,234"]  # fmt: skip
    assert rows[1].split()[-1] == "n/a"
    assert "no labels: nothing was detected" in rows[2]
    page.select_option("#order", "set")
    assert figure(page, 7).locator(".box").count() == 3
    assert figure(page, 7).locator("small").inner_text() == "cam1.mp4 at 3.5 s · 3 boxes"
    assert figure(page, 0).locator(".about span").first.inner_text() == f"{HOSTILE.replace('/', '')}.jpg"
    x, y, width, height = (figure(page, 7).locator(".box .line").last.get_attribute(key) for key in ("x", "y", "width", "height"))  # fmt: skip
    assert [float(value) for value in (x, y, width, height)] == [80, 70, 60, 40]


@needs_browser
def test_rejecting_and_saving(visit: Visit) -> None:
    """The smallest box under the pointer is meant; a second click takes it back; what was rejected before stays."""
    page = visit.page
    assert visit.text("#count") == "nothing rejected"
    page.select_option("#order", "set")
    click_at(page, 7, 100, 90)  # in all three boxes
    click_at(page, 7, 45, 35)  # in the largest only
    click_at(page, 6, 45, 35)
    click_at(page, 6, 45, 35)
    figure(page, 5).locator("[data-drop]").click()
    assert visit.text("#count") == "1 image, 2 boxes rejected"
    assert figure(page, 7).locator(".box.out").count() == 2
    assert figure(page, 5).get_attribute("class") == "crop out"
    box = {"id": (FIRST + 7) * 10_000}
    expected = [
        *EARLIER,
        FIRST + 5,
        {"id": box["id"] + 2, "bbox": [80, 70, 60, 40]},
        {**box, "bbox": [40, 30, 160, 100]},
    ]
    assert saved(page) == expected


@needs_browser
def test_rejected_survives_a_reload_and_a_list_can_be_loaded(visit: Visit, tmp_path: Path) -> None:
    page = visit.page
    page.select_option("#order", "set")
    figure(page, 3).locator("[data-drop]").click()
    page.reload()
    assert visit.text("#count") == "1 image rejected"
    file = tmp_path / "rejected.json"
    moved = {"id": (FIRST + 6) * 10_000, "bbox": [1, 1, 9, 9]}  # of other answers: not the box with this id here
    file.write_text(json.dumps([FIRST + 4, (FIRST + 9) * 10_000, moved]))
    page.set_input_files("#load", file)
    page.locator("#count", has_text="2 images, 1 box rejected").wait_for()
    assert moved in saved(page)
    file.write_text('{"not": "a list"}')
    page.set_input_files("#load", [])
    page.set_input_files("#load", file)
    page.locator("#kept", has_text="is no list of rejected images and boxes").wait_for()
    page.evaluate("localStorage.clear()")


@needs_browser
def test_filters_and_pages(visit: Visit, made: tuple[Path, dict[str, Any]]) -> None:
    page, annotations = visit.page, made[1]["annotations"]

    def images(fits: Any) -> int:
        return len({one["image_id"] for one in annotations if fits(one)})

    assert visit.text(".where") == "1 to 24 of 30 images"
    page.locator(".next").first.click()
    assert visit.text(".where") == "25 to 30 of 30 images"
    page.select_option("#class", label=page.locator("#class option").nth(2).inner_text())
    assert visit.text(".where").endswith(f"of {images(lambda one: one['category_id'] == 4)} images")
    page.fill("#high", "0.6")
    page.locator("#high").blur()
    count = images(lambda one: one["category_id"] == 4 and one["score"] <= 0.6)
    assert visit.text(".where").endswith(f"of {count} images")
    assert page.locator("#grid .box.dim").count() == page.locator("#grid .box").count() - sum(
        one["category_id"] == 4 and one["score"] <= 0.6 for one in annotations
    )
    page.click("#reset")
    page.select_option("#source", "cam1.mp4")
    assert visit.text(".where") == "1 to 10 of 10 images"
    page.select_option("#state", "empty")
    assert visit.text(".where") == "1 to 3 of 3 images"
    page.fill("#low", "0.99")
    page.select_option("#state", "clean")
    assert visit.text(".where") == "No image fits the filters."
    page.click("#reset")
    page.locator("#grid [data-drop]").nth(2).click()
    page.select_option("#state", "rejected")
    assert visit.text(".where") == "1 to 1 of 1 images"


@needs_browser
def test_orders(visit: Visit, made: tuple[Path, dict[str, Any]]) -> None:
    page = visit.page
    shown = "all => all.map((one) => Number(one.dataset.image) - 300000000000)"
    figures = page.locator("#grid figure")
    limit = {3: 0.45, 4: 0.4}
    doubt: dict[int, float] = {}
    for one in made[1]["annotations"]:
        low = limit[one["category_id"]]
        number = one["image_id"] - FIRST
        doubt[number] = min(doubt.get(number, 2), (one["score"] - low) / (1 - low))
    assert figures.evaluate_all(shown)[: len(doubt)] == sorted(doubt, key=lambda number: doubt[number])
    page.select_option("#order", "set")
    assert figures.evaluate_all(shown) == list(range(24))
    page.select_option("#order", "many")
    assert [number % 4 for number in figures.evaluate_all(shown)][:8] == [3] * 7 + [2]


@needs_browser
def test_keyboard_and_enlarged_picture(visit: Visit) -> None:
    page = visit.page
    page.select_option("#order", "set")
    box = figure(page, 7).locator(".box").first
    box.focus()
    page.keyboard.press("Enter")
    assert box.get_attribute("aria-pressed") == "true"
    page.keyboard.press(" ")
    assert box.get_attribute("aria-pressed") == "false"
    figure(page, 7).get_by_text("Enlarge").click()
    tags = page.locator("#large .tag").all_inner_texts()
    assert tags == [f"{HOSTILE} {score}" for score in ("0.57", "0.62", "0.67")]
    page.keyboard.press("x")
    assert visit.text("#count") == "1 image rejected"
    page.keyboard.press("ArrowLeft")
    assert visit.text("#large .about span") == "006.jpg"
    page.locator("#large .box").first.focus()
    page.keyboard.press("Enter")
    assert visit.text("#count") == "1 image, 1 box rejected"
    page.keyboard.press("Escape")
    assert not page.locator("#large").is_visible()
    assert figure(page, 6).locator(".box.out").count() == 1


@needs_browser
def test_light_dark_and_phone(chromium: Any, made: tuple[Path, dict[str, Any]]) -> None:
    color = "getComputedStyle(document.body).backgroundColor"
    colors = {}
    for scheme in ("light", "dark"):
        opened = Visit(chromium, made[0], 390, color_scheme=scheme, device_scale_factor=2)
        colors[scheme] = opened.page.evaluate(color)
        assert opened.page.evaluate("document.documentElement.scrollWidth") == 390
        opened.page.locator("#grid figure button").first.click()
        inside = opened.page.locator("#large").bounding_box()
        assert inside["x"] >= 0
        assert inside["x"] + inside["width"] <= 390
        opened.page.click("#close")
        opened.page.click("#theme")
        assert opened.page.evaluate(color) != colors[scheme]
        assert opened.errors == []
        opened.page.close()
    assert colors["light"] != colors["dark"]


@needs_browser
def test_every_control_has_a_name(visit: Visit) -> None:
    unnamed = visit.page.evaluate(
        """() => [...document.querySelectorAll("button, select, input, [role=button]")].filter((node) =>
        !(node.getAttribute("aria-label") || node.textContent.trim() || node.closest("label")?.textContent.trim()))
        .map((node) => node.outerHTML)"""
    )
    assert unnamed == []


@needs_browser
def test_readable_without_scripts(chromium: Any, made: tuple[Path, dict[str, Any]]) -> None:
    opened = Visit(chromium, made[0], 1400, java_script_enabled=False)
    assert "need scripts" in opened.text("noscript, .missing")
    assert opened.page.locator("tbody tr").count() == 3
    assert not opened.page.locator("#tools").is_visible()
    opened.page.close()


def test_a_part_of_many_images_is_shown(tmp_path: Path) -> None:
    write_set(tmp_path, 30)
    page = write_review(tmp_path, images=5)
    text = page.read_text()
    assert "5 images, spread evenly over all, are shown below" in text
    shown = json.loads(text.split('id="data">')[1].split("</script>")[0])["images"]
    assert [image["id"] - FIRST for image in shown] == [0, 7, 14, 22, 29]
    assert len(list((tmp_path / "review").iterdir())) == 5


def test_pictures_are_made_once_and_old_ones_go(tmp_path: Path) -> None:
    content = write_set(tmp_path, 4)
    write_review(tmp_path, side=100)
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "review").iterdir()}
    assert len(files) == 4
    write_review(tmp_path, side=100)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "review").iterdir()} == files
    content["images"].pop()
    content["annotations"] = [one for one in content["annotations"] if one["image_id"] != FIRST + 3]
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    write_review(tmp_path, side=100)
    assert len(list((tmp_path / "review").iterdir())) == 3


def test_images_that_are_gone_are_said(tmp_path: Path) -> None:
    content = write_set(tmp_path, 3)
    Path(content["images"][1]["file_name"]).unlink()
    Path(content["images"][2]["file_name"]).write_bytes(b"no image")
    text = write_review(tmp_path).read_text()
    assert "2 of them can't be read any more" in text
    assert text.count('"picture":null') == 2


def test_no_name_becomes_markup(made: tuple[Path, dict[str, Any]]) -> None:
    text = made[0].read_text()
    assert HOSTILE not in text
    assert "<img src=x" not in text


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        write_review(tmp_path)
    write_set(tmp_path, 2)
    (tmp_path / "annotations.json").write_text(json.dumps({"images": []}))
    with pytest.raises(DataError, match="not labels made by detkd pseudolabel"):
        write_review(tmp_path)
