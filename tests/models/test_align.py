from __future__ import annotations

import pytest
import torch

from detkd.errors import PairError
from detkd.models.align import Aligner
from detkd.types import HeadOutput, View


def view(imgsz: int, strides: tuple[int, ...] = (8, 16, 32), classes: int = 2, seed: int = 0) -> View:
    generator = torch.Generator().manual_seed(seed)
    points, per_anchor = [], []
    for stride in strides:
        cells = imgsz // stride
        y, x = torch.meshgrid(torch.arange(cells) + 0.5, torch.arange(cells) + 0.5, indexing="ij")
        points.append(torch.stack([x.flatten(), y.flatten()], 1))
        per_anchor.append(torch.full((cells * cells, 1), float(stride)))
    anchor_points, per = torch.cat(points), torch.cat(per_anchor)
    anchors = len(anchor_points)
    logits = torch.randn(1, anchors, classes, generator=generator)
    distances = torch.rand(1, anchors, 4, generator=generator) + 0.5
    centres = (anchor_points * per).repeat(1, 2)
    boxes = centres + torch.tensor([-1.0, -1.0, 1.0, 1.0]) * distances * per
    return View({"one2many": HeadOutput(logits, boxes, distances)}, anchor_points, per, (imgsz, imgsz))


def test_equal_sizes_pass_through() -> None:
    student, teacher = view(64), view(64, seed=1)
    assert Aligner()(student, teacher) is teacher


@pytest.mark.parametrize("ratio", [2, 4])
def test_every_student_cell_reads_the_best_teacher_cell_inside_it(ratio: int) -> None:
    """Slow reference: for each student anchor, look at all teacher anchors whose centre lies in its cell."""
    student, teacher = view(64), view(64 * ratio, seed=1)
    got = Aligner()(student, teacher).head("one2many")
    head = teacher.head("one2many")
    teacher_centre = teacher.anchor_points * teacher.strides / ratio
    teacher_stride = teacher.strides[:, 0] / ratio
    levels = [8.0, 16.0, 32.0]
    reader = torch.tensor([min(s for s in levels if s >= t) for t in teacher_stride.tolist()])
    for a in range(len(student.anchor_points)):
        stride = float(student.strides[a])
        low = (student.anchor_points[a] - 0.5) * stride
        inside = ((teacher_centre >= low) & (teacher_centre < low + stride)).all(1)
        wanted = inside & (reader == stride)
        if not wanted.any():  # no teacher level falls here: its coarsest one is read
            wanted = inside & (teacher_stride == teacher_stride.max())
        index = torch.nonzero(wanted)[:, 0]
        best = index[head.logits[0, index].amax(1).argmax()]
        torch.testing.assert_close(got.logits[0, a], head.logits[0, best])
        torch.testing.assert_close(got.boxes_xyxy[0, a], head.boxes_xyxy[0, best] / ratio)
    centres = (student.anchor_points * student.strides).repeat(1, 2)
    rebuilt = centres + torch.tensor([-1.0, -1.0, 1.0, 1.0]) * got.distances[0] * student.strides
    torch.testing.assert_close(rebuilt, got.boxes_xyxy[0])


def test_refuses_sizes_and_strides_that_do_not_match() -> None:
    with pytest.raises(PairError, match=r"teacher\.imgsz: .* imgsz times 1, 2, 4"):
        Aligner()(view(64), view(96))
    with pytest.raises(PairError, match=r"teacher\.imgsz"):
        Aligner()(view(64), view(32))
    with pytest.raises(PairError, match="strides"):
        Aligner()(view(64), view(64, strides=(4, 8, 16)))
