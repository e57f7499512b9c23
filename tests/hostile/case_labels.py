"""Bad labels: COCO JSON, YOLO text files and data YAMLs, Pascal VOC."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.data.sets import draw, voc_object, voc_xml
from tests.hostile.case import Case
from tests.hostile.good import coco, save, voc, weights, yolo

# The weights are never reached: data come first.
EVALUATE = ["evaluate", "model=missing.pt"]


def _coco(name: str, change: Callable[[dict[str, Any]], Any], says: str) -> Case:
    return Case("COCO labels", name, lambda folder: [*EVALUATE, f"data={coco(folder, change)}"], says)


def _annotation(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content["annotations"][0].update(values)


def _image(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content["images"][0].update(values)


def _without(table: str, key: str) -> Callable[[dict[str, Any]], None]:
    return lambda content: content[table][0].pop(key) and None


def _put(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content.update({key: value})


_COCO = [
    _coco("an empty file", lambda _: "", "isn't JSON (line 1"),
    _coco("cut off in the middle", lambda _: '{"images": [{"id": 1', "isn't JSON (line 1"),
    _coco("bytes that are no text", lambda _: b"\xff\xfe\x00\x01" * 9, "isn't UTF-8 text"),
    _coco("a list", lambda _: [1, 2], "holds a list, not COCO's"),
    _coco("null", lambda _: "null", "holds a NoneType"),
    _coco("lists in each other 100000 deep", lambda _: "[" * 100_000, "nested more than 100 levels deep"),
    _coco("objects in each other 900 deep", lambda c: c["images"][0].update(note=_nest(900)), "nested more than 100"),
    _coco(
        "a number of 5000 digits", lambda _: '{"images": [' + "9" * 5000 + "]}", "isn't usable JSON (Exceeds the limit"
    ),
    _coco("images is a dictionary", _put("images", {}), "must hold a list `images`, got a dict"),
    _coco("no images", _put("images", []), "lists no usable images"),
    _coco("no categories", _put("categories", []), "has no classes"),
    _coco("categories of numbers", _put("categories", [1, 2]), "categories[0] needs an integer id and a name"),
    _coco("two categories of one name", lambda c: c["categories"][1].update(name="car"), "'car' is used twice"),
    _coco("annotations is a text", _put("annotations", "none"), "must hold a list `annotations`, got a str"),
    _coco("an annotation that is null", lambda c: c["annotations"].append(None), "must be an object, got None"),
    _coco("a box of three numbers", _annotation(bbox=[1, 2, 3]), "bbox must be [x, y, width, height]"),
    _coco("a box of texts", _annotation(bbox=["a", "b", "c", "d"]), "is not made of finite numbers (non-finite)"),
    _coco("a box with NaN", _annotation(bbox=[float("nan"), 1, 5, 5]), "is not made of finite numbers (non-finite)"),
    _coco("a box of negative width", _annotation(bbox=[9, 9, -5, 5]), "has no positive width and height"),
    _coco("a box outside", _annotation(bbox=[900, 9, 5, 5]), "outside the image of 64x48"),
    _coco("a box of 400-digit numbers", _annotation(bbox=[10**400, 1, 5, 5]), "is not made of finite numbers"),
    _coco("an unknown class", _annotation(category_id=99), "category_id 99 is no class of this set"),
    _coco("an unknown image", _annotation(image_id=99), "image_id 99 is not among the usable images"),
    _coco("an image id that is a list", _image(id=[1]), "needs an id and a file_name"),
    _coco("an image id of 400 digits", _image(id=10**400), "must be from 0 to 2^53"),
    _coco("two images of one id", _image(id=2), "image id 2 is already used"),
    _coco("an image without file name", _without("images", "file_name"), "needs an id and a file_name"),
    _coco("a file name with a zero byte", _image(file_name="a\0b.jpg"), "no image file"),
    _coco("a file name of 5000 letters", _image(file_name="a" * 5000 + ".jpg"), "(missing-image)"),
    _coco("an image that is not there", _image(file_name="../../nowhere/x.jpg"), "no image file"),
    _coco("a size of zero", _image(width=0), "width and height must be positive integers"),
    _coco("another size than the image's", _image(width=640), "labels are for an image of 640x48"),
]


def _nest(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = {"a": value}
    return value


def _yolo(name: str, says: str, label: str | bytes = "0 0.5 0.5 0.25 0.5\n", **keys: Any) -> Case:
    kind = "data YAML" if keys else "YOLO labels"
    return Case(kind, name, lambda folder: [*EVALUATE, f"data={yolo(folder, label, **keys)}"], says)


def _yaml(name: str, text: str | bytes, says: str) -> Case:
    def make(folder: Path) -> list[str]:
        yolo(folder)
        return [*EVALUATE, f"data={save(folder / 'set/data.yaml', text)}"]

    return Case("data YAML", name, make, says)


_BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)

_YOLO = [
    _yolo("words", "not a row of numbers", "person left of car"),
    _yolo("three numbers", "has 3 numbers, needs 5", "0 0.5 0.5"),
    _yolo("six numbers", "a prediction saved with its score?", "0 0.5 0.5 0.1 0.1 0.9"),
    _yolo("pixels", "is above 1: pixels?", "0 320 240 50 60"),
    _yolo("NaN", "holds NaN or infinity", "0 nan 0.5 0.1 0.1"),
    _yolo("a class that is not there", "class 7 is not one of 0 to 1", "7 0.5 0.5 0.1 0.1"),
    _yolo("class 0.5", "class 0.5 is not one of 0 to 1", "0.5 0.5 0.5 0.1 0.1"),
    _yolo("a box without width", "has no positive width and height", "0 0.5 0.5 0 0.1"),
    _yolo("a centre outside", "is outside the image", "0 -0.5 0.5 0.1 0.1"),
    _yolo("bytes that are no text", "isn't UTF-8 text", b"\xff\xfe\x80"),
    _yolo("a number of 5000 digits", "(non-finite)", "9" * 5000 + " 0.5 0.5 0.1 0.1"),
    _yolo("names left out", "names no classes", names=None),
    _yolo("a class without a name", "class 1 has no name", names=("car", "")),
    _yolo("a class name twice", "used twice", names=("car", "car")),
    _yolo("names with a gap", "indices must be 0 to 1 without gaps", names={0: "car", 5: "truck"}),
    _yolo("nc of another number", "2 names but nc is 5", nc=5),
    _yolo("a folder that is not there", "no such folder or file", test="images/nowhere"),
    _yolo("a split that is a number", "must be a folder, a .txt list of images", test=5),
    _yaml("nc of a billion", "nc: 1000000000\ntest: images/test\n", "nc is 1e+09, more than 100000 classes"),
    _yaml("a text", "just words", "holds a str, not the keys"),
    _yaml("an empty file", "", "holds a NoneType"),
    _yaml("a bracket left open", "names: [car", "isn't plain YAML at line"),
    _yaml("bytes that are no text", b"\xff\xfe\x80", "isn't UTF-8 text"),
    _yaml("a tag that runs a command", "!!python/object/apply:os.system ['touch ran']", "isn't plain YAML at line 1"),
    _yaml("a tag that imports a module", "names: !!python/module:os", "isn't plain YAML at line 1"),
    _yaml(
        "aliases that stand for a billion values",
        f"{_BOMB}names: *i\ntest: images/test\n",
        "more than a million values",
    ),
    _yaml("a list that holds itself", "names: &a [*a]\ntest: images/test\n", "more than a million values"),
    _yaml("lists in each other 500 deep", "names: " + "[" * 500 + "]" * 500, "nested"),
    _yaml("a date that does not exist", "names: 0000-00-00", "isn't plain YAML"),
    _yaml(
        "Ultralytics' name for somebody's file", "format: ultralytics\npath: evil.yaml\n", "has no data set evil.yaml"
    ),
    _yaml("a key that does not exist", "format: coco\npath: .\nsplits: 3\n", "data.splits: no such key"),
    _yaml("a format that does not exist", "format: tfrecord\npath: .\n", "data.format: must be one of"),
]


def _voc(name: str, says: str, xml: str | bytes | None = None, objects: str = "") -> Case:
    return Case("VOC labels", name, lambda folder: [*EVALUATE, f"data={voc(folder, xml, objects)}"], says)


_LAUGHS = (
    '<?xml version="1.0"?><!DOCTYPE l [<!ENTITY l0 "ha">'
    + "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
    + "]><annotation><filename>&l9;</filename></annotation>"
)
_SECRET = '<!DOCTYPE r [<!ENTITY e SYSTEM "file:///etc/passwd">]><annotation><filename>&e;</filename></annotation>'

_VOC = [
    _voc("an empty file", "isn't complete XML", ""),
    _voc("cut off", "isn't complete XML", "<annotation><object>"),
    _voc("JSON", "isn't complete XML", "{}"),
    _voc("an encoding that does not exist", "can't be read", '<?xml version="1.0" encoding="klingon"?><annotation/>'),
    _voc("entities that stand for a billion words", "isn't complete XML (limit on input amplification", _LAUGHS),
    _voc("an entity that names a file", "undefined entity", _SECRET),
    _voc("no object at all", "no labelled object in the XML files", voc_xml("a.jpg", "")),
    _voc("corners of words", "is not made of finite numbers", objects=voc_object(box=("a", "b", "c", "d"))),
    _voc("corners that change places", "has no positive width and height", objects=voc_object(box=(20, 20, 5, 5))),
    _voc("a size that is wrong", "labels are for an image of 900x48", voc_xml("a.jpg", voc_object(), (900, 48))),
]


def _missing(folder: Path) -> list[str]:
    return [*EVALUATE, "data=nowhere/data.yaml"]


def _empty_folder(folder: Path) -> list[str]:
    (folder / "set").mkdir()
    return [*EVALUATE, "data=set"]


def _two_yamls(folder: Path) -> list[str]:
    yolo(folder)
    for name in ("one", "two"):
        (folder / "set/data.yaml").rename(folder / f"set/{name}.yaml") if name == "one" else save(
            folder / "set/two.yaml", "names: [a]"
        )
    return [*EVALUATE, "data=set"]


def _unreadable_name(folder: Path) -> list[str]:
    yolo(folder)
    draw(folder / "set/images/test/b.jpg")
    os.rename(folder / "set/images/test/b.jpg", os.fsencode(folder / "set/images/test") + b"/\xff\x1b[2J.jpg")
    (folder / "set/images/test/a.jpg").write_bytes(b"no image")
    return [*EVALUATE, "data=set/data.yaml"]


def _counted(make: Callable[[Path], Any], says: str) -> Callable[[Path], list[str]]:
    def made(folder: Path) -> list[str]:
        source = make(folder)
        model = weights(folder)
        return [
            "evaluate", f"model={model}", f"data={source}", "data.on_bad=skip", "imgsz=32", "device=cpu",
            "report.resamples=100", "report.permutations=0",
        ]  # fmt: skip

    return made


def _bad_box(content: dict[str, Any]) -> None:
    content["annotations"][0]["bbox"] = [1, 2, float("nan"), 4]


def _bad_label(folder: Path) -> Path:
    return yolo(folder, "0 0.5 0.5 0.25 0.5\n0 nan 1 1 1\nwords\n")


_FOLDERS = [
    Case("data set", "a path that is not there", _missing, "no such file or folder"),
    Case("data set", "an empty folder", _empty_folder, "no labels recognised in"),
    Case("data set", "two data YAMLs", _two_yamls, "several data YAMLs"),
    Case("data set", "a name with an escape sequence and a bad image", _unreadable_name, "(broken-image)"),
    Case("COCO labels", "a box with NaN, on_bad=skip", _counted(lambda f: coco(f, _bad_box), "skipped"), "skipped", counted=True),
    Case("YOLO labels", "two bad lines, on_bad=skip", _counted(_bad_label, "skipped"), "skipped", counted=True),
]  # fmt: skip

CASES = [*_COCO, *_YOLO, *_VOC, *_FOLDERS]
