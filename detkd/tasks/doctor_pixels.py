"""Does `detkd doctor` see the same in training and at run time?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from detkd.ops.boxes import pairwise_iou
from detkd.tasks.doctor_checks import Finding

if TYPE_CHECKING:
    from detkd.models.teacher import LiveTeacher

__all__ = ["check_preprocessing"]

_SURE = 0.25
"""Score of a box that must be found again."""
_FAINT_BOX = 0.05
"""Boxes below this score are not compared number by number: nobody uses them."""
_EXACT = (0.05, 0.002)
"""Pixels and score by which boxes may differ where both see the same pixels: folding rounds a little."""
_OTHER_PIXELS = 0.05
"""Mean difference of two pictures, 0..1, above which they differ by more than how a side was rounded."""


def check_preprocessing(
    path: str, teacher: LiveTeacher, views: Sequence[Mapping[str, torch.Tensor]], files: Sequence[Path]
) -> Finding:
    """Compare what the teacher says in training with what it says at run time.

    Two questions, as one would hide the other: does the network say the same of the same pixels, and are the pixels of
    the training's loader those of `Detector`? The two round the shorter side of an image differently, by up to a pixel,
    so boxes of small objects are never quite the same.

    Args:
        path: The teacher's checkpoint.
        teacher: The same, loaded for training.
        views: Images as the training loader shows them without augmentation.
        files: The same images.
    """
    from detkd.inference.detector import Detector
    from detkd.inference.images import read_image

    shown = [view.get("img_teacher", view["img"]) for view in views]
    detector = Detector.load(path, device="cpu", imgsz=int(shown[0].shape[-1]), nms=True)
    teacher = teacher.to(torch.device("cpu"))
    total = again = compared = 0
    boxes = scores = apart = swapped = 0.0
    for pixels, file in zip(shown, files, strict=True):
        prepared, _ = detector.prepare([read_image(file)])
        apart += float((prepared - pixels).abs().mean()) / len(shown)
        swapped += float((prepared - pixels.flip(1)).abs().mean()) / len(shown)
        deployed, live, seen = (
            part[0] for part in (_deployed(detector, prepared), _live(teacher, prepared), _live(teacher, pixels))
        )
        sure = torch.maximum(deployed[:, 4:], live[:, 4:]).amax(1) >= _FAINT_BOX
        compared += int(sure.sum())
        if bool(sure.any()):
            boxes = max(boxes, float((deployed[sure, :4] - live[sure, :4]).abs().max()))
            scores = max(scores, float((deployed[sure, 4:] - live[sure, 4:]).abs().max()))
        certain = live[live[:, 4:].amax(1) >= _SURE]
        near = seen[seen[:, 4:].amax(1) >= _SURE / 2]
        alike = pairwise_iou(certain[:, :4], near[:, :4]) * (certain[:, 4:].argmax(1)[:, None] == near[:, 4:].argmax(1))
        total += len(certain)
        again += int((alike >= 0.5).any(1).sum())
    facts = {
        "images": len(shown), "compared": compared, "boxes": boxes, "scores": scores, "pixels": apart,
        "swapped": swapped, "sure": total, "again": again,
    }  # fmt: skip
    text = (
        f"same pixels: {compared} boxes differ by at most {boxes:.2g} pixels and {scores:.2g} of score; pixels of the "
        f"loader: {apart:.3f} off on average, {again} of {total} boxes above {_SURE} found again ({len(shown)} images)"
    )
    if swapped < 0.8 * apart:
        return Finding("preprocessing", "problem", text, "the loader swaps red and blue; check trainer.bgr", facts)
    if boxes > _EXACT[0] or scores > _EXACT[1]:
        advice = "the network that teaches is not the one that is deployed; please report this with the checkpoint"
        return Finding("preprocessing", "problem", text, advice, facts)
    if apart > _OTHER_PIXELS or again < 0.6 * total:
        advice = "training and run time see other pictures; look at load_imgsz and teacher.imgsz"
        return Finding("preprocessing", "warning", text, advice, facts)
    if not compared:
        return Finding("preprocessing", "warning", text, "the teacher sees nothing here; see its AP above", facts)
    return Finding("preprocessing", "ok", text, facts=facts)


def _deployed(detector: Any, pixels: torch.Tensor) -> torch.Tensor:
    """Return corners in pixels and class scores of every anchor, (B, A, 4 + C), as they are deployed."""
    dense = detector.dense(pixels).float().transpose(1, 2)
    half = dense[..., 2:4] / 2
    return torch.cat([dense[..., :2] - half, dense[..., :2] + half, dense[..., 4:]], -1)


@torch.no_grad()
def _live(teacher: LiveTeacher, pixels: torch.Tensor) -> torch.Tensor:
    """Return the same of the network that teaches, in its own classes."""
    from detkd.models.head import raw_outputs, read_view

    head = read_view(raw_outputs(teacher.model, pixels), teacher.head).head("one2many")
    return torch.cat([head.boxes_xyxy, head.logits.sigmoid()], -1).float()
