"""Put the answers of a teacher that sees a larger image on the student's anchors.

A teacher at r times the student's resolution has cells that are r times finer in the scene. Each of its pyramid levels
is read by the finest student level whose cells are at least as large; a student cell takes the teacher cell inside it
that is most confident of one of its classes (those of the data: `LiveTeacher` translates them first). Student levels
that no teacher level falls on read the teacher's coarsest level in the same way.
"""

from __future__ import annotations

import torch
from torch import Tensor

from detkd.errors import PairError
from detkd.types import HeadOutput, View

__all__ = ["Aligner", "candidate_index"]


def level_sizes(view: View) -> list[tuple[int, int, int]]:
    """Return (stride, rows, columns) of each level of a view."""
    strides = [int(s) for s in torch.unique_consecutive(view.strides.flatten()).tolist()]
    height, width = view.imgsz
    return [(s, height // s, width // s) for s in strides]


def candidate_index(student: View, teacher: View) -> Tensor:
    """Return which teacher anchors lie in each student cell, (A_student, K), rows padded by repeating the first.

    Raises:
        PairError: If the teacher's image is not a power of two times the student's, or the levels can't be matched.
    """
    ratio = teacher.imgsz[0] / student.imgsz[0]
    if teacher.imgsz[1] / student.imgsz[1] != ratio or ratio < 1 or ratio != 2 ** round(ratio).bit_length() / 2:
        side = student.imgsz[0]
        raise PairError(
            f"teacher.imgsz: must be imgsz times 1, 2, 4, ..., got {_size(teacher)} for a student that sees "
            f"{_size(student)} (a smaller image has no answer for the student's finest cells); use "
            f"teacher.imgsz={side} or {2 * side}"
        )
    levels = level_sizes(student)
    offsets, start = [], 0
    for _, rows, columns in level_sizes(teacher):
        offsets.append(start)
        start += rows * columns
    # Teacher strides in the student's pixels.
    scaled = [
        (stride / ratio, rows, columns, offset)
        for (stride, rows, columns), offset in zip(level_sizes(teacher), offsets, strict=True)
    ]
    readers: list[list[tuple[float, int, int, int]]] = [[] for _ in levels]
    for level in scaled:
        fits = [i for i, (stride, _, _) in enumerate(levels) if stride >= level[0]]
        if fits:
            readers[fits[0]].append(level)
    parts = []
    for (stride, rows, columns), found in zip(levels, readers, strict=True):
        y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        cells = []
        for t_stride, t_rows, t_columns, offset in found or [scaled[-1]]:
            factor = stride / t_stride
            if factor != int(factor) or factor < 1 or t_rows != rows * factor or t_columns != columns * factor:
                raise PairError(
                    f"teacher: strides {[s for s, _, _ in level_sizes(teacher)]} at {teacher.imgsz} pixels do not "
                    f"match the student's {[s for s, _, _ in levels]} at {student.imgsz}; use strides 8, 16, 32"
                )
            k = int(factor)
            cells += [offset + (y * k + dy) * t_columns + x * k + dx for dy in range(k) for dx in range(k)]
        parts.append(torch.stack([c.flatten() for c in cells], 1))  # (rows * columns, K of this level)
    widest = max(p.shape[1] for p in parts)
    return torch.cat([torch.cat([p, p[:, :1].expand(-1, widest - p.shape[1])], 1) for p in parts])


def _size(view: View) -> str:
    return f"{view.imgsz[0]}x{view.imgsz[1]} pixels"


class Aligner:
    """Translates teacher views to the student's anchors; what a pair of image sizes needs is computed once."""

    def __init__(self) -> None:
        self._index: dict[tuple[object, ...], Tensor] = {}
        self._same: set[tuple[object, ...]] = set()

    def __call__(self, student: View, teacher: View) -> View:
        """Return the teacher's answers on the student's anchors.

        Raises:
            PairError: If sizes or strides of the two don't match.
        """
        if teacher.imgsz == student.imgsz:
            pair = (student.imgsz, len(student.strides), len(teacher.strides), student.strides.dtype)
            if pair in self._same:  # comparing tensors makes a GPU wait
                return teacher
            if not torch.equal(teacher.strides, student.strides):
                raise PairError(
                    f"teacher: strides {[s for s, _, _ in level_sizes(teacher)]} differ from the student's "
                    f"{[s for s, _, _ in level_sizes(student)]}; choose a pair with the same strides"
                )
            self._same.add(pair)
            return teacher
        key = (student.imgsz, teacher.imgsz, student.strides.device)
        if key not in self._index:
            self._index[key] = candidate_index(student, teacher).to(student.strides.device)
        index = self._index[key]
        ratio = teacher.imgsz[0] / student.imgsz[0]
        heads = {branch: _select(head, index, ratio, student) for branch, head in teacher.heads.items()}
        lost = teacher.lost
        if any(head.dist is not None for head in teacher.heads.values()):
            lost = {**(lost or {}), "dist": "it belongs to cells of another resolution; set teacher.imgsz to imgsz"}
        return teacher._replace(
            heads=heads, anchor_points=student.anchor_points, strides=student.strides, imgsz=student.imgsz, lost=lost
        )


def _select(head: HeadOutput, index: Tensor, ratio: float, student: View) -> HeadOutput:
    confidence = head.logits.amax(-1)[:, index]  # (B, A, K)
    best = index.expand(len(confidence), -1, -1).gather(2, confidence.argmax(2, keepdim=True))[..., 0]  # (B, A)
    logits = head.logits.gather(1, best[..., None].expand(-1, -1, head.logits.shape[-1]))
    boxes = head.boxes_xyxy.gather(1, best[..., None].expand(-1, -1, 4)) / ratio
    centres = (student.anchor_points * student.strides).repeat(1, 2)
    sign = boxes.new_tensor([-1.0, -1.0, 1.0, 1.0])
    # A distribution over bins belongs to the teacher's own cell and can't be moved, so it is dropped.
    return HeadOutput(logits, boxes, (boxes - centres) * sign / student.strides, classes=head.classes)
