from __future__ import annotations

import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import ImageFile

from detkd.data.images import check_image, check_images, check_verify
from detkd.errors import DataError
from tests.data.sets import draw, sideways


def decoded_size(path: Path) -> tuple[int, int]:
    pixels = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
    assert pixels is not None
    return pixels.shape[1], pixels.shape[0]


@pytest.mark.parametrize("name", ["a.jpg", "b.JPG", "ü n.jpeg", "c.png", "d.webp", "e.tif", "f.BMP", "g.jp2"])
@pytest.mark.parametrize("turned", [False, True])
def test_size_is_that_of_the_decoded_image(tmp_path: Path, name: str, turned: bool) -> None:
    options = {"exif": sideways()} if turned and Path(name).suffix.lower() not in (".bmp", ".jp2") else {}
    path = draw(tmp_path / "with space" / name, **options)
    info = check_image(path)
    assert (info.problem, info.size) == ("", decoded_size(path))
    if turned and name == "a.jpg":
        assert (info.size, info.stored) == ((48, 64), (64, 48))


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1"])
def test_grey_and_transparent_images_are_fine(tmp_path: Path, mode: str) -> None:
    assert check_image(draw(tmp_path / "a.png", mode=mode), "full").size == (64, 48)


@pytest.mark.parametrize("verify", ["header", "full"])
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp", ".tif"])
def test_truncated_files_are_found(tmp_path: Path, suffix: str, verify: str) -> None:
    path = draw(tmp_path / f"a{suffix}")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    info = check_image(path, check_verify(verify))
    assert info.problem == "broken-image"
    assert "truncated" in info.detail or "decoded" in info.detail
    assert path.read_bytes() == content[: len(content) // 2]


def test_other_damage(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("no image at all")
    (tmp_path / "folder.jpg").mkdir()
    assert check_image(tmp_path / "empty.jpg").problem == "empty-file"
    assert check_image(tmp_path / "text.jpg").problem == "broken-image"
    assert check_image(tmp_path / "folder.jpg").problem == "broken-image"
    for name in ("none.jpg", "text.jpg/x.jpg", "x" * 300 + ".jpg", "nul\0.jpg", "half\ud800.jpg"):
        assert check_image(tmp_path / name).problem == "missing-image", name


def test_bytes_after_the_end_marker_are_harmless(tmp_path: Path) -> None:
    path = draw(tmp_path / "a.jpg")
    path.write_bytes(path.read_bytes() + b"\0" * 100 + b"maker note")
    assert check_image(path).problem == ""


def test_truncation_is_found_though_a_library_told_pil_to_ignore_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = draw(tmp_path / "a.jpg")
    path.write_bytes(path.read_bytes()[:-300])
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    assert check_images([path])[0].problem == "broken-image"
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


def test_order_is_kept_and_thousands_are_quick(tmp_path: Path) -> None:
    paths = [draw(tmp_path / f"{side}.jpg", (side, 20)) for side in range(20, 30)]
    start = time.perf_counter()
    infos = check_images(paths * 200)
    unique = [tmp_path / f"link{number}.jpg" for number in range(2000)]
    for number, link in enumerate(unique):
        link.symlink_to(paths[number % 10])
    infos = check_images(unique)
    assert time.perf_counter() - start < 10  # about 0.6 s on one core; 10,000 images in 3 s
    assert [info.size[0] for info in infos[:10]] == list(range(20, 30))


def test_verify_is_checked() -> None:
    with pytest.raises(DataError, match=r"data\.verify: must be header or full, got 'deep'"):
        check_verify("deep")
