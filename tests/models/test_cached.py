from __future__ import annotations

import pytest
import torch

from detkd.caching.manifest import Manifest
from detkd.caching.store import CacheReader, CacheWriter, create_cache
from detkd.caching.views import UNKNOWN, ViewLayout, encode_views
from detkd.errors import ConfigError, DataError, PairError
from detkd.losses.binary import BinaryLogits
from detkd.losses.recipe import Recipe, Term
from detkd.models.cached import CachedTeacher
from detkd.models.head import raw_outputs, read_view
from detkd.types import HeadOutput, View
from tests.inference.tiny import NAMES, tiny_model
from tests.losses.views import BOTH, make_view

SIZE = (64, 96)
ANCHORS = 8 * 12 + 4 * 6 + 2 * 3


def layout_of(k: int | None = None, classes: int | None = None, precision: str = "float32") -> ViewLayout:
    return ViewLayout(BOTH, ANCHORS, len(NAMES), k, classes, precision, SIZE, (8, 16, 32))


def look(seed: int, images: int = 2) -> View:
    model = tiny_model(seed=seed)
    pixels = torch.rand(images, 3, *SIZE, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return read_view(raw_outputs(model, pixels), model.model[-1])


class Shelf:
    """Records in memory."""

    def __init__(self, layout: ViewLayout, records: dict[tuple[int, int], bytes], kind: str = "views") -> None:
        self.manifest = Manifest(kind, {}, layout.to_dict(), len(records))
        self.records = records

    def read(self, image: int, view: int) -> bytes:
        return self.records[image, view]


def shelf(layout: ViewLayout, view: View) -> Shelf:
    return Shelf(layout, {(image, 3): payload for image, payload in enumerate(encode_views(view, layout))})


def test_all_in_float32_is_the_live_answer_of_a_real_head():
    live, student = look(1), look(2)
    found = CachedTeacher(shelf(layout_of(), live)).answer({"record": [(0, 3), (1, 3)]}, student)
    for branch in BOTH:
        for name in ("logits", "boxes_xyxy", "distances"):
            assert torch.equal(getattr(found.head(branch), name), getattr(live.head(branch), name)), name
        assert found.head(branch).dist is None
    assert found.feats is None
    assert found.imgsz == SIZE
    rule = Recipe([Term("cls", BinaryLogits())])
    native = {"one2many": 0.8, "one2one": 0.2}
    assert torch.equal(rule(student, live, {}, 0.0, native)[0], rule(student, found, {}, 0.0, native)[0])


def test_each_image_gets_its_own_record_in_any_batch():
    live, student = look(1), look(2)
    teacher = CachedTeacher(shelf(layout_of(k=10, classes=2, precision="int8"), live))
    both = teacher.answer({"record": [(1, 3), (0, 3)]}, student).head("one2many")
    both = HeadOutput(*(None if x is None else x.clone() for x in both))
    for place, image in enumerate((1, 0)):
        alone = teacher.answer({"record": [(image, 3)]}, student).head("one2many")
        assert len(alone.logits) == 1
        for name in ("logits", "boxes_xyxy", "distances", "known"):
            assert torch.equal(getattr(alone, name)[0], getattr(both, name)[place]), name


def test_nothing_stays_from_batch_to_batch():
    first, second, student = look(1), look(5), look(2)
    layout = layout_of(k=10)
    records = {(i, 0): p for i, p in enumerate(encode_views(first, layout) + encode_views(second, layout))}
    teacher = CachedTeacher(Shelf(layout, records))
    teacher.answer({"record": [(0, 0), (1, 0)]}, student)
    for keys in ([(2, 0), (3, 0)], [(3, 0)], [(0, 0), (2, 0), (3, 0)]):
        seen = teacher.answer({"record": keys}, student)
        fresh = CachedTeacher(Shelf(layout, records)).answer({"record": keys}, student)
        for branch in BOTH:
            for name in ("logits", "boxes_xyxy", "distances", "known"):
                assert torch.equal(getattr(seen.head(branch), name), getattr(fresh.head(branch), name)), name


@pytest.mark.parametrize("k", [None, 10])
def test_without_records_nothing_is_known_and_nothing_is_taught(k):
    live, student = look(1), look(2, images=1)
    teacher = CachedTeacher(shelf(layout_of(k=k), live))
    found = teacher.answer({"img": torch.zeros(1, 3, *SIZE)}, student)
    for branch in BOTH:
        head = found.head(branch)
        assert not head.known.any()
        assert (head.logits == UNKNOWN).all()
    total, items = Recipe([Term("cls", BinaryLogits())])(student, found, {}, 0.0, {"one2many": 1.0, "one2one": 1.0})
    assert total == 0
    assert set(items) == {"kd_cls", "kd_cls_o2o"}
    record = teacher.answer({"record": [(0, 3)]}, student).head("one2many")
    assert record.known is None if k is None else int(record.known.sum()) == k


def test_answers_carry_no_gradient():
    student = look(2)
    found = CachedTeacher(shelf(layout_of(k=10), look(1))).answer({"record": [(0, 3), (1, 3)]}, student)
    assert not any(x.requires_grad for head in found.heads.values() for x in head if x is not None)


def test_a_student_with_other_anchors_is_refused():
    teacher = CachedTeacher(shelf(layout_of(), look(1)))
    with pytest.raises(PairError, match=r"cache.*\(64, 96\).*\(64, 48\)"):
        teacher.answer({"record": [(0, 3), (1, 3)]}, make_view(1))


def test_a_cache_of_another_kind_is_refused():
    with pytest.raises((ConfigError, DataError), match=r"cache.*views"):
        CachedTeacher(Shelf(layout_of(), {}, kind="instances"))


def test_moving_gives_the_teacher_back():
    teacher = CachedTeacher(shelf(layout_of(), look(1)))
    assert teacher.to(torch.device("cpu")) is teacher


def test_a_real_cache_is_read(tmp_path):
    live, student, layout = look(1), look(2), layout_of(k=10)
    create_cache(tmp_path, kind="views", fingerprint={}, layout=layout.to_dict(), expected=2, facts={})
    with CacheWriter(tmp_path) as writer:
        for image, payload in enumerate(encode_views(live, layout)):
            writer.add(image, 0, payload)
        writer.finish()
    found = CachedTeacher(CacheReader(tmp_path)).answer({"record": [(0, 0), (1, 0)]}, student).head("one2many")
    assert torch.equal(found.logits[found.known], live.head("one2many").logits[found.known])
