from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest

from detkd.diagnosis.confusion import confusion_change, confusion_matrix
from detkd.diagnosis.working_point import working_point
from detkd.errors import ShapeError
from detkd.evaluation.side import Run
from tests.diagnosis.scenes import BOX, ODD, hotcoco_of, random_run, scene, shifted

FAR = [400.0, 300.0, 50.0, 50.0]


def theirs(run: Run, threshold: float) -> np.ndarray:
    with contextlib.redirect_stdout(io.StringIO()):
        result = hotcoco_of(run).confusion_matrix(iou_thr=0.5, max_det=10_000, min_score=threshold)
    return np.asarray(result["matrix"], dtype=np.int64)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.71])
def test_equals_hotcoco_without_crowds(seed, threshold):
    run = random_run(seed, images=40, decimals=8, noise=0.15)
    assert confusion_matrix(run, threshold).tolist() == theirs(run, threshold).tolist()


@pytest.mark.parametrize("seed", range(6))
def test_crowds_only_excuse_false_alarms(seed):
    """hotcoco has no crowd regions in its matrix: what lies on them is a false alarm there, and nothing else differs."""
    run = random_run(seed, images=60, crowd=0.5, decimals=8)
    ours, other = confusion_matrix(run, 0.1), theirs(run, 0.1)
    assert ours[:-1].tolist() == other[:-1].tolist()
    assert (ours[-1] <= other[-1]).all()
    assert ours[-1].sum() < other[-1].sum()


@pytest.mark.parametrize("seed", range(4))
def test_every_object_and_detection_is_counted_once(seed):
    run = random_run(seed, images=40)
    matrix = confusion_matrix(run, 0.4)
    objects = np.bincount(run.matches.object_label, minlength=len(run.matches.names))
    assert matrix[:-1].sum(axis=1).tolist() == objects.tolist()
    assert matrix[-1, -1] == 0
    used = run.detections.label[run.detections.scores >= 0.4]
    assert matrix[:, :-1].sum(axis=0).tolist() == np.bincount(used, minlength=len(objects)).tolist()


def test_by_hand():
    objects = [(0, "cat", BOX), (0, "dog", FAR), (1, "dog", BOX), (2, "cat", BOX, True)]
    found = [
        (0, "dog", BOX, 0.9),  # the cat, taken for a dog
        (0, "cat", shifted(5), 0.8),  # the right class, too late
        (1, "dog", shifted(20), 0.7),  # a hit
        (2, "cat", [20.0, 20.0, 9.0, 9.0], 0.6),  # on a crowd of cats
        (2, "dog", [20.0, 20.0, 9.0, 9.0], 0.6),  # not a crowd of dogs
        (1, "cat", FAR, 0.1),  # below the threshold
    ]
    run = scene(objects, found, images=3)
    assert confusion_matrix(run, 0.5).tolist() == [[0, 1, 0], [0, 1, 1], [1, 1, 0]]
    assert confusion_matrix(run, 0.1).tolist() == [[0, 1, 0], [0, 1, 1], [2, 1, 0]]
    assert confusion_matrix(run, 0.7).tolist() == [[0, 1, 0], [0, 1, 1], [1, 0, 0]]
    assert confusion_matrix(run, None).tolist() == [[0, 0, 1], [0, 0, 2], [0, 0, 0]]


def test_of_two_objects_in_one_place_the_own_class_is_taken():
    for order in (("cat", "dog"), ("dog", "cat")):
        run = scene([(0, name, BOX) for name in order], [(0, "cat", BOX, 0.9)])
        assert confusion_matrix(run, 0.5).tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 0]]


@pytest.mark.parametrize("name", ODD)
def test_odd_runs(name):
    run = ODD[name]
    matrix = confusion_matrix(run, working_point(run.matches)["threshold"])
    assert matrix.shape == (len(run.matches.names) + 1,) * 2
    assert matrix[:-1].sum() == len(run.matches.object_row)
    assert confusion_change(run, run, (0.5, 0.5)) == []


def test_change_by_hand():
    objects = [(n, "cat", BOX) for n in range(4)] + [(4, "dog", BOX)]
    before = scene(objects, [(n, "dog", BOX, 0.9) for n in range(3)], images=5)
    after = scene(objects, [(n, "cat", BOX, 0.3) for n in range(4)] + [(4, "cat", FAR, 0.3)], images=5)
    assert confusion_change(before, after, (0.5, 0.25)) == [
        {"truth": "cat", "found": "dog", "before": 3, "after": 0, "delta": -3},
        {"truth": "cat", "found": "background", "before": 1, "after": 0, "delta": -1},
        {"truth": "background", "found": "cat", "before": 0, "after": 1, "delta": 1},
    ]
    assert [cell["delta"] for cell in confusion_change(after, before, (0.25, 0.5), cells=2)] == [3, 1]
    # At a threshold that nothing passes, every object is missed.
    lost = confusion_change(before, after, (0.5, None))
    assert {"truth": "cat", "found": "background", "before": 1, "after": 4, "delta": 3} in lost


def test_change_is_the_difference_of_the_matrices():
    before, after = random_run(3, noise=0.2), random_run(3, noise=0.05)
    cells = confusion_change(before, after, (0.5, 0.4), cells=6)
    change = confusion_matrix(after, 0.4) - confusion_matrix(before, 0.5)
    np.fill_diagonal(change, 0)
    assert len(cells) == 6
    assert [abs(cell["delta"]) for cell in cells] == sorted(np.abs(change).ravel().tolist(), reverse=True)[:6]
    names = [*before.matches.names, "background"]
    for cell in cells:
        assert change[names.index(cell["truth"]), names.index(cell["found"])] == cell["delta"]
        assert cell["after"] - cell["before"] == cell["delta"]


def test_other_classes_are_refused():
    with pytest.raises(ShapeError, match="confusion: the detectors were matched to different classes"):
        confusion_change(ODD["one class"], ODD["no objects"], (0.5, 0.5))
