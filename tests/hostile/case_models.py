"""Bad weights, model YAMLs, pictures, videos and configurations, and models that are not supported."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.data.sets import draw
from tests.hostile.case import Case
from tests.hostile.good import coco, save, weights, yolo


class Trap:
    """Leaves a file where it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        import os

        return os.system, ("touch ran",)


def _weights(name: str, write: Callable[[Path], Any], says: str, suffix: str = ".pt") -> Case:
    def make(folder: Path) -> list[str]:
        write(folder / f"bad{suffix}")
        return ["evaluate", f"model=bad{suffix}", f"data={coco(folder)}", "imgsz=32", "device=cpu"]

    return Case("weights", name, make, says)


def _torch(content: Any) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        import torch

        torch.save(content() if callable(content) else content, path)

    return write


def _plain_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps(Trap()))


def _cut(path: Path) -> None:
    content = weights(path.parent).read_bytes()
    path.write_bytes(content[: len(content) // 2])


def _zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../../ran", "x")
        archive.writestr("archive/data.pkl", pickle.dumps(Trap()))


def _built(config: str, kind: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        import torch
        from ultralytics.nn import tasks

        cfg = tasks.yaml_model_load(config)
        cfg.update(scale="n", scales={"n": [0.33, 0.125, 256]})
        model = getattr(tasks, kind)(cfg, nc=2, verbose=False)
        torch.save({"model": model, "train_args": {"task": "x"}}, path)

    return write


def _model_yaml(name: str, text: str, says: str) -> Case:
    def make(folder: Path) -> Callable[[], Any]:
        def build_detector() -> Any:
            from detkd.models.weights import build_detector

            return build_detector(save(folder / "m.yaml", text), ("car",), key="student")

        return build_detector

    return Case("model YAML", name, make, says)


_YOLO = "nc: 1\nbackbone:\n  - [-1, 1, Conv, [8, 3, 2]]\nhead:\n  - [[0], 1, Detect, [nc]]\n"

_WEIGHTS = [
    _weights("an empty file", lambda p: p.write_bytes(b""), "is not a readable checkpoint"),
    _weights("garbage", lambda p: p.write_bytes(b"\x01garbage" * 99), "bad.pt"),
    _weights("cut off in the middle", _cut, "is not a readable checkpoint"),
    _weights("a picture", lambda p: (draw(p.with_suffix(".png")), p.with_suffix(".png").rename(p)), "bad.pt"),
    _weights("a pickle that runs a command", _plain_pickle, "bad.pt"),
    _weights("a checkpoint that runs a command", _torch({"model": Trap()}), "was not opened"),
    _weights("a zip file with .. in a name", _zip, "bad.pt"),
    _weights("a dictionary of tensors", _torch({"a": 1}), "objects that are no part of an Ultralytics checkpoint"),
    _weights("a number", _torch(5), "bad.pt"),
    _weights("a segmentation model", _built("yolo26n-seg.yaml", "SegmentationModel"), "not in a Detect head"),
    _weights("a pose model", _built("yolo26n-pose.yaml", "PoseModel"), "not in a Detect head"),
    _weights("an oriented-box model", _built("yolo26n-obb.yaml", "OBBModel"), "not in a Detect head"),
    _weights("a classification model", _built("yolo26n-cls.yaml", "ClassificationModel"), "not in a Detect head"),
    _weights("a YOLO-World model", _built("yolov8s-worldv2.yaml", "WorldModel"), "not in a Detect head"),
    _weights("ONNX that is garbage", lambda p: p.write_bytes(b"onnx" * 99), "is no ONNX file that can be loaded", ".onnx"),
    _weights("a suffix nobody knows", lambda p: p.write_bytes(b"x"), "can't run bad.bin", ".bin"),
    Case("weights", "an address", lambda f: ["evaluate", "model=http://127.0.0.1:9/x.pt", f"data={coco(f)}"], "is an address"),
    Case("weights", "a path that is not there", lambda f: ["evaluate", "model=a/b.pt", f"data={coco(f)}"], "no such file a/b.pt"),
    Case("weights", "an empty folder", lambda f: [(f / "e").mkdir() or "evaluate", "model=e", f"data={coco(f)}"], "no weights in the folder"),
    _model_yaml("an activation that runs a command", f"activation: __import__('os').system('touch ran')\n{_YOLO}", "does not describe a model"),
    _model_yaml("a layer that does not exist", _YOLO.replace("Conv", "NoSuchLayer"), "does not describe a model"),
    _model_yaml("a layer that is a builtin", _YOLO.replace("Conv", "exit"), "does not describe a model"),
    _model_yaml("a text", "just words", "is no model YAML"),
    _model_yaml("no head", "nc: 1\nbackbone: []\n", "does not describe a model"),
    _model_yaml("a tag that runs a command", "!!python/object/apply:os.system ['touch ran']", "is no model YAML"),
]  # fmt: skip


def _predict(name: str, content: bytes | None, file: str, says: str, *, counted: bool = False) -> Case:
    def make(folder: Path) -> list[str]:
        if content is not None:
            save(folder / "in" / file, content)
        if counted:
            draw(folder / "in/good.png", (32, 32))
        model = weights(folder)
        source = "in" if counted else f"in/{file}"
        return ["predict", f"model={model}", f"source={source}", "imgsz=32", "device=cpu", "out=out"]

    return Case("video" if file.endswith(".mp4") else "image", name, make, says, counted)


def _bomb() -> bytes:
    """A PNG that says it has 60000 x 60000 pixels."""
    import struct
    import zlib

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + data + chunk(b"IEND", b"")


def _image_set(name: str, content: bytes, says: str) -> Case:
    def make(folder: Path) -> list[str]:
        file = yolo(folder)
        save(folder / "set/images/test/a.jpg", content)
        return ["evaluate", "model=missing.pt", f"data={file}"]

    return Case("image", name, make, says)


_PICTURES = [
    _image_set("an empty file in a set", b"", "the image file is empty"),
    _image_set("garbage in a set", b"garbage" * 50, "(broken-image)"),
    _image_set("3600 million pixels claimed in a set", _bomb(), "more than 200 million pixels"),
    _predict("not there", None, "a.png", "no such file or folder in/a.png"),
    _predict("an empty file", b"", "a.png", "not an image that can be read"),
    _predict("garbage", b"garbage" * 99, "a.jpg", "not an image that can be read"),
    _predict("3600 million pixels claimed", _bomb(), "a.png", "not an image that can be read"),
    _predict("a suffix nobody knows", b"x", "a.xyz", "is neither an image nor a video"),
    _predict("one of two is garbage", b"garbage", "b[/yellow]a.jpg", "skipped", counted=True),
    _predict("an empty file", b"", "a.mp4", "no frame of this video can be decoded"),
    _predict("garbage", b"\x00\x00\x00\x18ftypmp42" + b"\x7f" * 999, "a.mp4", "no frame of this video can be decoded"),
    _predict("a name of 250 letters beside a good one", b"", "n" * 250 + ".mp4", "skipped", counted=True),
]


def _config(name: str, says: str, *words: str, files: dict[str, str] | None = None) -> Case:
    def make(folder: Path) -> list[str]:
        for file, text in (files or {}).items():
            save(folder / file, text)
        return list(words)

    return Case("configuration", name, make, says)


_TRAIN = ("train", "model=missing.pt", "data=nowhere")
_DISTILL = ("distill", "teacher=t.pt", "student=s.pt", "data=nowhere", "dry_run=true")
_RUN = {"run/run.json": '{"verb": "train", "status": "failed"}'}

_CONFIGS = [
    _config("a verb that does not exist", "no such verb", "trian"),
    _config("a key that does not exist", "epcohs: no such key; did you mean epochs?", *_TRAIN, "epcohs=1"),
    _config("a text for a number", "epochs: must be a whole number, got 'many'", *_TRAIN, "epochs=many"),
    _config("a bracket left open", "epochs: must be a whole number", *_TRAIN, "epochs=[1"),
    _config("a group that is a number", "no such file or folder", "train", "model=missing.pt", "data=5"),
    _config("an interpolation without end", "config", *_TRAIN, "out=${out}"),
    _config("an experiment that is no YAML", "not valid YAML", *_TRAIN, "--config-dir", "c", "experiment=x",
            files={"c/experiment/x.yaml": "# @package _global_\nepochs: [3\n"}),
    _config("an experiment with a tag that runs a command", "x.yaml", *_TRAIN, "--config-dir", "c", "experiment=x",
            files={"c/experiment/x.yaml": "# @package _global_\nepochs: !!python/object/apply:os.system ['touch ran']\n"}),
    _config("a loss that is os.system", "_target_: must start with detkd.losses.", *_DISTILL,
            "distill.terms.cls.loss._target_=os.system"),
    _config("a loss that writes files", "_target_: must start with detkd.losses.", *_DISTILL,
            "distill.terms.cls.loss._target_=detkd.io.write_text"),
    _config("a loss that reaches os through ours", "_target_", *_DISTILL,
            "distill.terms.cls.loss._target_=detkd.losses.recipe.os.system"),
    _config("resume of nothing", "resume: no config.yaml in nowhere", "train", "resume=nowhere"),
    _config("resume of a config that is a list", "no key: value pairs", "train", "resume=run",
            files={**_RUN, "run/config.yaml": "[1, 2]"}),
    _config("resume of a config with a tag that runs a command", "can't read", "train", "resume=run",
            files={**_RUN, "run/config.yaml": "!!python/object/apply:os.system ['touch ran']"}),
    _config("resume of a config with billions of values", "more than a million values", "train", "resume=run",
            files={**_RUN, "run/config.yaml": "a: &a [1, 2]\n" + "".join(f"{new}: &{new} [{', '.join([f'*{old}'] * 40)}]\n"
                   for old, new in zip("abcd", "bcde", strict=True))}),
    _config("resume of somebody's plugins", "plugins: the run in run used code of ['os']", "train", "resume=run",
            files={**_RUN, "run/config.yaml": "plugins: [os]\nepochs: 1\n"}),
    _config("resume of a group that is a number", "data: must be a group of keys, got 5", "train", "resume=run",
            files={**_RUN, "run/config.yaml": "data: 5\n"}),
    _config("a run.json that is a list", "run.json is damaged", "evaluate", "model=m.pt", "data=x", "out=run",
            files={"run/run.json": "[]"}),
]  # fmt: skip

CASES = [*_WEIGHTS, *_PICTURES, *_CONFIGS]
