"""Bad results files, label files given as gt, run folders, review files and caches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.hostile.case import Case
from tests.hostile.good import instances, results, run_folder, save

_QUICK = ["report.resamples=100", "report.permutations=0"]


def _results(name: str, change: Callable[[list[dict[str, Any]]], Any], says: str) -> Case:
    def make(folder: Path) -> list[str]:
        content = results()
        other = change(content)
        save(folder / "gt.json", instances())
        save(folder / "found.json", content if other is None else other)
        return ["evaluate", "detections=found.json", "gt=gt.json", "out=out"]

    return Case("results JSON", name, make, says)


def _set(**values: Any) -> Callable[[list[dict[str, Any]]], None]:
    return lambda content: content[0].update(values)


def _truth(name: str, change: Callable[[dict[str, Any]], Any], says: str) -> Case:
    def make(folder: Path) -> list[str]:
        content = instances()
        other = change(content)
        save(folder / "gt.json", content if other is None else other)
        save(folder / "found.json", results())
        return ["evaluate", "detections=found.json", "gt=gt.json", "out=out"]

    return Case("labels as gt", name, make, says)


def _first(table: str, **values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content[table][0].update(values)


_RESULTS = [
    _results("an empty file", lambda _: "", "not valid JSON (line 1"),
    _results("cut off", lambda _: '[{"image_id": 1, "category', "not valid JSON (line 1"),
    _results("bytes that are no text", lambda _: b"\x80\x81\x82", "can't be read ("),
    _results("a number", lambda _: "5", "detections must be a list of records"),
    _results("lists in each other 100000 deep", lambda _: "[" * 100_000, "nested more than 100 levels deep"),
    _results("objects in each other inside a record", lambda c: c[0].update(x=_nest(200)), "nested more than 100 levels"),
    _results("a number of 5000 digits", lambda _: '[{"score": ' + "9" * 5000 + "}]", "Exceeds the limit (4300 digits)"),
    _results("a record that is a list", lambda c: c.append([1, 2]), "record 2: not a record, got [1, 2]"),  # type: ignore[arg-type]
    _results("no score", lambda c: c[0].pop("score") and None, "record 0: no score"),
    _results("a score of NaN", _set(score=float("nan")), "record 0: score is nan"),
    _results("a score that is a text", _set(score="high"), "score must be a number, got 'high'"),
    _results("a score of 400 digits", _set(score=10**400), "score must be a number"),
    _results("a box of 400-digit numbers", _set(bbox=[10**400, 1, 2, 3]), "bbox must be four numbers"),
    _results("a box of infinity", _set(bbox=[0, 0, float("inf"), 3]), "bbox has NaN or infinity"),
    _results("a box of negative height", _set(bbox=[0, 0, 5, -3]), "bbox has no area"),
    _results("a box that is a dictionary", _set(bbox={"x": 1}), "bbox must be four numbers"),
    _results("an image id that is a list", _set(image_id=[1]), "record 0: unusable ids or numbers"),
    _results("an image that is not labelled", _set(image_id=77), "unknown image_id 77"),
    _results("images of another set", lambda c: [r.update(image_id=f"x{n}") for n, r in enumerate(c)] and None, "none of its 2 images"),
    _results("a class that is not there", _set(category_id=99), "unknown category_id 99"),
    _results("a line break and an escape sequence as id", _set(image_id="a\n\x1b[2Jb"), "unknown image_id"),
    _truth("an empty file", lambda _: "", "not valid JSON (line 1"),
    _truth("a results file", lambda _: results(), "COCO ground truth needs `images`"),
    _truth("lists in each other 100000 deep", lambda _: "[" * 100_000, "nested more than 100 levels deep"),
    _truth("no images", lambda c: c.update(images=[]), "no images; is it the annotation file"),
    _truth("no categories", lambda c: c.update(categories=[]), "the class list (`categories`) is empty"),
    _truth("a category id that is a list", _first("categories", id=[1]), "categories[0]: no id that can be used"),
    _truth("a category id that is NaN", _first("categories", id=float("nan")), "categories[0]: no id that can be used"),
    _truth("an image id that is true", _first("images", id=True), "images[0]: no usable id"),
    _truth("an area of 400 digits", _first("annotations", area=10**400), "area must be a number >= 0"),
    _truth("an area of NaN", _first("annotations", area=float("nan")), "area must be a number >= 0"),
    _truth("a box without area", _first("annotations", bbox=[1, 1, 0, 5]), "bbox has no area"),
    _truth("annotations that are a number", lambda c: c.update(annotations=7), "`annotations` must be a list"),
]  # fmt: skip


def _nest(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def _device(folder: Path) -> list[str]:
    save(folder / "found.json", results())
    return ["evaluate", "detections=found.json", "gt=/dev/zero", "out=out"]


def _claims(folder: Path) -> list[str]:
    """A sparse file: it says that it has a terabyte and takes no room."""
    save(folder / "gt.json", instances())
    with save(folder / "found.json", "[").open("r+b") as stream:
        stream.truncate(10**12)
    return ["evaluate", "detections=found.json", "gt=gt.json", "out=out"]


def _skips(what: str) -> Callable[[Path], list[str]]:
    def make(folder: Path) -> list[str]:
        truth, found = instances(), results()
        if what == "found":
            found[0]["score"] = float("nan")
        else:
            truth["annotations"].append({"id": 9, "image_id": 1, "category_id": 3, "bbox": [1, 1, float("nan"), 5]})
        save(folder / "gt[/bold].json", truth)
        save(folder / "found.json", found)
        return ["evaluate", "detections=found.json", "gt=gt[/bold].json", "out=out", "on_bad=skip", *_QUICK]

    return make


def _run(name: str, says: str, **files: Any) -> Case:
    def make(folder: Path) -> list[str]:
        run_folder(folder, **files)
        save(folder / "after.json", results())
        return ["compare", "before=run", "after=after.json", "out=out", *_QUICK]

    return Case("run folder", name, make, says)


def _gt_sha() -> dict[str, Any]:
    from detkd.evaluation.truth import load_truth

    return {"metrics": {"protocol": {"settings": {}, "gt_sha256": load_truth(instances()).sha256}}, "cost": {}}


def _run_cost(name: str, cost: Any, says: str) -> Case:
    def make(folder: Path) -> list[str]:
        run_folder(folder, metrics_json={**_gt_sha(), "cost": cost})
        save(folder / "after.json", results())
        return ["compare", "before=run", "after=after.json", "out=out", *_QUICK]

    return Case("run folder", name, make, says)


_RUNS = [
    Case("labels as gt", "a device without end", _device, "does not end, more than the 64 MB"),
    Case("results JSON", "a terabyte of nothing", _claims, "has 1,000,000 MB, more than the 64 MB"),
    Case("results JSON", "a score of NaN, on_bad=skip", _skips("found"), "left out 1 record with a non-finite score", True),
    Case("labels as gt", "a box of NaN, on_bad=skip", _skips("gt"), "left out 1 record with a non-finite box", True),
    _run("metrics.json is a list", "no metrics of detkd", metrics_json=[]),
    _run("metrics.json without protocol", "no metrics of detkd", metrics_json={"metrics": 5}),
    _run("metrics.json cut off", "not valid JSON", metrics_json='{"metrics": {'),
    _run("labels that are no labels", "COCO ground truth needs", ground_truth_json=[]),
    _run("other labels", "were made with other images or labels"),
    _run("run.json is a list", "run.json is damaged", run_json=[], metrics_json=None),
    _run("run.json says it is not finished", "is not finished", run_json={"status": "running"}, metrics_json=None),
    _run("config.yaml with a tag that runs a command", "can't be read",
         config_yaml="!!python/object/apply:os.system ['touch ran']", metrics_json=None),
    _run("config.yaml that names weights elsewhere", "no weights in the run folder",
         config_yaml="checkpoint: ../../../x", metrics_json=None),
    _run_cost("a cost that is a text", {"gflops": "<script>alert(1)</script>"}, "cost.gflops must be a number"),
    _run_cost("a device that is a list", {"device": [1]}, "cost.device must be a text"),
    _run_cost("a cost of NaN", {"size_mb": float("nan")}, "cost.size_mb is nan"),
]  # fmt: skip


def _reject(name: str, content: Any, says: str) -> Case:
    def make(folder: Path) -> Callable[[], Any]:
        def read_rejected() -> Any:
            from detkd.footage.reject import read_rejected

            return read_rejected(save(folder / "rejected.json", content))

        return read_rejected

    return Case("review file", name, make, says)


_REVIEW = [
    _reject("an empty file", "", "not valid JSON"),
    _reject("a dictionary", {"id": 1}, "must hold a list of ids, got a dict"),
    _reject("a text in the list", ["x"], "entry 0 of"),
    _reject(
        "a box of three numbers", [{"id": 2**40, "bbox": [1, 2, 3]}], "must be an id, or an object with id and bbox"
    ),
    _reject("a box of NaN", [{"id": 2**40, "bbox": [1, 2, 3, float("nan")]}], "must be an id, or an object with id"),
    _reject("an id that is true", [True], "must be an id"),
]


def _cache(name: str, says: str, content: Any, *, shard: bytes | None = None, lines: int = 1) -> Case:
    def make(folder: Path) -> list[str]:
        if content is not None:
            save(folder / "cache/cache.json", content)
        if shard is not None:
            save(folder / "cache/shards/r00-00000.safetensors", shard)
        return ["cache", "verify", "cache", "checks=0"]

    return Case("cache", name, make, says, lines=lines)


def _manifest(**values: Any) -> dict[str, Any]:
    usual = {
        "format": "detkd-cache", "schema": 1, "kind": "views", "fingerprint": {}, "layout": {}, "expected": 1,
        "complete": True, "created": "", "seconds": 0.0, "shards": {"r00-00000.safetensors": "0" * 64}, "facts": {},
    }  # fmt: skip
    return {**usual, **values}


_CACHES = [
    _cache("no folder", "no cache in cache", None),
    _cache("an empty cache.json", "not valid JSON", ""),
    _cache("somebody else's cache.json", "not the description of a teacher cache", {"a": 1}),
    _cache("of another version", "written by another version of detkd (schema 99", _manifest(schema=99)),
    _cache("a field left out", "layout missing", {k: v for k, v in _manifest().items() if k != "layout"}),
    _cache("shards that are a number", "shards can't be what detkd wrote", _manifest(shards=5)),
    _cache("a shard with folders in its name", "shards can't be what detkd wrote", _manifest(shards={"../../x": "0"})),
    _cache("a number of records that is a text", "expected can't be what detkd wrote", _manifest(expected="many")),
    _cache("a shard that is missing", "is damaged; remove it and build it again", _manifest(), lines=2),
    _cache("a shard of garbage", "is damaged; remove it and build it again", _manifest(), shard=b"\x00" * 99, lines=2),
    _cache("a shard whose header claims 2^60 bytes", "is damaged", _manifest(), shard=(1 << 60).to_bytes(8, "little") + b"{}", lines=2),
]  # fmt: skip

CASES = [*_RESULTS, *_RUNS, *_REVIEW, *_CACHES]
