"""Cross-head distillation: the student's features, judged by the teacher's head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from detkd.errors import ConfigError, PairError
from detkd.losses.adapters import EPS, adapt, build_adapters, match_maps, standardise
from detkd.losses.base import DistillLoss, TowerChannels
from detkd.losses.binary import binary_logits
from detkd.losses.boxes import OVERLAPS, box_iou_loss, select_boxes
from detkd.losses.checks import check_choice, check_number
from detkd.ops.divergence import widen
from detkd.types import Context, HeadOutput, Towers, View

__all__ = ["CrossHead", "match_statistics"]

STAGES = (1, 2)


def match_statistics(student: Tensor, teacher: Tensor) -> Tensor:
    """Give each channel the mean and spread that it has in the teacher.

    `(x_s - mean_s) / std_s * std_t + mean_t`, statistics over images and cells; variances are raised by 1e-5.

    Args:
        student: Map in the teacher's width, (B, K, H, W), any float dtype.
        teacher: The teacher's map, (B', K, H', W'); treated as constant. Its size may differ.

    Returns:
        Shape of `student`; float32 (float64 for float64 input).
    """
    var, mean = torch.var_mean(widen(teacher.detach()), dim=(0, 2, 3), correction=0, keepdim=True)
    return standardise(widen(student)) * (var + EPS).sqrt() + mean


class CrossHead(DistillLoss):
    """Make the teacher's head say of the student's features what it says of the teacher's.

    The student's maps inside its own head, after stage j of each tower, go through a 1x1 convolution into the teacher's
    width, take on the teacher's mean and spread per channel (`match_statistics`), and pass the rest of the teacher's
    frozen head. What comes out, logits z_x and boxes b_x, is compared with the teacher's own z_t and b_t:

    `binary_logits(z_x, z_t) + box * box_iou_loss(b_x, b_t)`

    The student's own answers learn from labels alone, so labels and teacher don't pull at the same outputs.

    Needs a live teacher, uncompiled on both sides. The teacher may see more pixels: only the statistics of its maps
    are used, and its answers are on the student's anchors already. Levels are then paired by number, although cells of
    the teacher's are smaller in the scene; the adapter has to bridge that, so prefer one resolution.

    Args:
        stage: After which of the towers' stages the maps are taken, 1 or 2. With 2, only the teacher's last 1x1
            convolution is left to judge.
        gamma: Exponent of the disagreement factor of the class part; >= 0.
        box: Weight of the box part within this loss; >= 0.
        kind: "giou" or "ciou".

    References:
        Wang et al., CrossKD: Cross-Head Knowledge Distillation for Object Detection, CVPR 2024, section 3.
        arXiv:2306.11369. Differs from the paper: a 1x1 convolution where the paper needs heads of one width; SiLU heads
        with separate towers; the target's entropy is subtracted and the factor of the class part is a constant; anchors
        come from a region; the mass is the teacher's score, not the positives.
    """

    uses: ClassVar[frozenset[str]] = frozenset({"logits", "boxes", "towers"})
    alternative: ClassVar[str] = (
        "set distill.terms.TERM.branches=[one2many], the head that every teacher has, or use distill=binary"
    )

    def __init__(self, stage: int = 1, gamma: float = 1.0, box: float = 1.0, kind: str = "giou") -> None:
        super().__init__()
        if stage not in STAGES or isinstance(stage, bool):
            raise ConfigError(f"stage: must be 1 or 2, got {stage!r}; 1 leaves most of the teacher's head to judge")
        self.stage = int(stage)
        self.gamma = check_number("gamma", gamma, low=0.0, hint="1 is the usual choice, 0 turns the factor off")
        self.box = check_number("box", box, low=0.0, hint="1 is the paper's choice, 0 leaves boxes out")
        self.kind = check_choice("kind", kind, OVERLAPS)
        self.adapters = nn.ModuleDict()

    def setup_towers(self, student: Mapping[str, TowerChannels], teacher: Mapping[str, TowerChannels]) -> None:
        """Build an adapter per head, tower and level. They have no bias: matching the mean removes it."""
        self.adapters = nn.ModuleDict(
            {
                f"{branch}_{part}": build_adapters(getattr(student[branch], part), getattr(teacher[branch], part))
                for branch in student
                if branch in teacher
                for part in (("classes", "boxes") if self.box else ("classes",))
            }
        )

    def forward(self, student: View, teacher: View, context: Context) -> Tensor:
        """Return the loss over the region of the context.

        Raises:
            PairError: If one side has no towers for this head, or the teacher is no live network.
        """
        target = teacher.head(context.branch)
        cross = self._cross(student, teacher, context.branch)
        total = binary_logits(cross.logits, target.logits, context.region, gamma=self.gamma)
        if not self.box:
            return total
        selection = select_boxes(cross, target, context)
        return total + self.box * box_iou_loss(cross.boxes_xyxy, target.boxes_xyxy, selection, kind=self.kind)

    def _cross(self, student: View, teacher: View, branch: str) -> HeadOutput:
        """Let the rest of the teacher's head speak about the student's maps."""
        maps_s, maps_t = (None if view.towers is None else view.towers.get(branch) for view in (student, teacher))
        if maps_s is None or maps_t is None or teacher.finish is None or f"{branch}_classes" not in self.adapters:
            raise PairError(
                f"distill: cross-head distillation needs the {branch} head of a live teacher and of the student; set "
                "cache=none and teacher to one model with that head, or branches: [one2many], or use distill=binary"
            )
        adapted = [
            self._adapted(f"{branch}_{part}", getattr(maps_s, part), getattr(maps_t, part))
            for part in ("classes", "boxes")
        ]
        return teacher.finish(branch, Towers(*adapted))

    def _adapted(self, key: str, student: tuple[Tensor, ...], teacher: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if key not in self.adapters:  # boxes that don't count: some map of the right size, whose answer nobody reads
            return tuple(match_maps(x_s, x_t) for x_s, x_t in zip(student, teacher, strict=True))
        layers = self.adapters[key]
        assert isinstance(layers, nn.ModuleList)
        return tuple(
            match_statistics(adapt(layer, x_s), x_t) for layer, x_s, x_t in zip(layers, student, teacher, strict=True)
        )
