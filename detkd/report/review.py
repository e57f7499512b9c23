"""A page on which a person looks at labels that a teacher made, and rejects those that are wrong.

It works from a file, without a network: pictures lie beside it as JPEG files, what was rejected is kept by the browser
and saved as a list that the set is formed anew with.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from detkd.errors import DataError
from detkd.io import atomic_path, read_json, write_text
from detkd.progress import track
from detkd.report.page_format import as_json, number_text
from detkd.report.pictures import QUALITY, read_picture

__all__ = ["write_review"]

_PICTURES = "review"


def write_review(folder: str | Path, *, images: int = 200, side: int = 960) -> Path:
    """Write `review.html` and its pictures (`review/*.jpg`) for a set of labels and return the page.

    Pictures that are there already and not older than their images are kept.

    Args:
        folder: A formed set: `annotations.json`, COCO with a `score` per box and `source` per image, and
            `provenance.json` with the thresholds and what was rejected before.
        images: Most pictures; of more images every n-th is shown, so that the page is a fair sample.
        side: Longer side of a picture in pixels; smaller ones are not enlarged.

    Raises:
        DataError: If the set can't be read or the page not be written.
    """
    target = Path(folder)
    content, facts = read_json(target / "annotations.json"), read_json(target / "provenance.json")
    try:
        shown = _sample(content["images"], images)
        there = _pictures(shown, target / _PICTURES, side)
        page = _entries(content, facts, shown, there)
        summary = _summary(content, facts)
    except (KeyError, TypeError, ValueError, AttributeError) as err:
        raise DataError(
            f"{target / 'annotations.json'}: not labels made by detkd pseudolabel ({err!r}); form it anew"
        ) from err
    summary |= {"shown": len(shown), "unreadable": there.count(None), "title": target.resolve().name}
    return write_text(target / "review.html", _render(page, summary))


def _sample(images: Sequence[Mapping[str, Any]], count: int) -> list[Mapping[str, Any]]:
    if len(images) <= count:
        return list(images)
    return [images[index] for index in np.linspace(0, len(images) - 1, count).round().astype(int).tolist()]


def _pictures(images: Sequence[Mapping[str, Any]], folder: Path, side: int) -> list[str | None]:
    """Write a picture of each image; return the names, None where an image can't be read."""

    def write(image: Mapping[str, Any]) -> str | None:
        source, made = Path(image["file_name"]), folder / f"{int(image['id'])}-{side}.jpg"
        try:
            if made.is_file() and made.stat().st_mtime >= source.stat().st_mtime:
                return made.name
        except OSError:
            return None
        pixels = read_picture(source)
        if pixels is None:
            return None
        scale = side / max(pixels.shape[:2])
        if scale < 1:
            size = (max(round(pixels.shape[1] * scale), 1), max(round(pixels.shape[0] * scale), 1))
            pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
        _, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
        with atomic_path(made) as temporary:
            temporary.write_bytes(data.tobytes())
        return made.name

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        names = list(track(pool.map(write, images), "pictures to review", len(images)))
    # Pictures of images that are no longer in the set show what somebody may have wanted gone.
    for old in folder.glob("*.jpg"):
        if old.name not in names:
            old.unlink(missing_ok=True)
    return names


def _entries(
    content: Mapping[str, Any],
    facts: Mapping[str, Any],
    images: Sequence[Mapping[str, Any]],
    pictures: Sequence[str | None],
) -> dict[str, Any]:
    """Return what the page's script works on; boxes are [annotation id, class, score, x, y, width, height]."""
    index = {entry["id"]: number for number, entry in enumerate(content["categories"])}
    boxes: dict[int, list[list[float]]] = {image["id"]: [] for image in images}
    for one in content["annotations"]:
        if one["image_id"] in boxes:
            boxes[one["image_id"]].append([one["id"], index[one["category_id"]], one["score"], *one["bbox"]])
    shown = [
        {
            "id": image["id"],
            "name": Path(image["file_name"]).name,
            "source": Path(str(image.get("source", ""))).name,
            "time": image.get("time_s"),
            "width": image["width"],
            "height": image["height"],
            "picture": f"{_PICTURES}/{picture}" if picture else None,
            "boxes": boxes[image["id"]],
        }
        for image, picture in zip(images, pictures, strict=True)
    ]
    names = [str(entry["name"]) for entry in content["categories"]]
    key = hashlib.blake2b(repr(sorted(boxes)).encode(), digest_size=8).hexdigest()
    limits = [(facts["thresholds"].get(name) or {}).get("threshold") for name in names]
    return {"key": key, "names": names, "thresholds": limits, "rejected": facts.get("rejected", []), "images": shown}


def _summary(content: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the numbers of the whole set, as they stand on the page without scripts."""
    boxes = Counter(one["category_id"] for one in content["annotations"])
    filled = len({one["image_id"] for one in content["annotations"]})
    classes = [
        {
            "objects": None, "precision": None, "low": None, "recall": None, "threshold": None, "reason": "",
            **(facts["thresholds"].get(entry["name"]) or {}), "name": entry["name"], "boxes": boxes[entry["id"]],
        }
        for entry in content["categories"]
    ]  # fmt: skip
    total = len(content["images"])
    return {"images": total, "boxes": boxes.total(), "empty": total - filled, "classes": classes,
            "rejected": len(facts.get("rejected", [])), "created": facts.get("created", "")}  # fmt: skip


def _render(page: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    from detkd import __version__

    environment = Environment(
        loader=PackageLoader("detkd.report", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters["number"] = number_text
    loader = environment.loader
    assert loader is not None
    style, more, script = (
        loader.get_source(environment, name)[0].strip() for name in ("page.css", "review.css", "review.js")
    )
    # As on the other pages, only this very script may run, whatever the classes and files are called.
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("review.html.j2").render(
        data=as_json(page),
        digest=digest,
        script=Markup(script),
        style=Markup(f"{style}\n{more}"),
        summary=summary,
        version=__version__,
    )
