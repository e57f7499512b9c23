"""What SECURITY.md promises, tried: nothing is executed, nothing leaves its folder, memory stays bounded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from detkd.data.images import check_images
from detkd.errors import ConfigError, DataError, ModelError, printable
from detkd.io import atomic_path, parse_json, parse_yaml, read_bytes, read_json
from tests.data.sets import draw
from tests.hostile import good
from tests.hostile.case_models import Trap, _bomb

NAMES = [
    "<script>alert(1)</script>", "../../x", "; touch ran", "$(touch ran)", "a\nb", "[/bold]", "\x1b[2J", "\u202egnp.exe",
    "a|b`c", "=1+1", "n" * 300, "'\"", "{{ 7*7 }}", "CON", "\U0001f980",
]  # fmt: skip


def test_a_data_yaml_can_not_run_its_download_script(tmp_path: Path) -> None:
    """Ultralytics executes the key `download` of a data YAML; only its own files may reach it."""
    from detkd.models.datasets import ultralytics_dataset

    evil = good.save(
        tmp_path / "evil.yaml", "path: .\ntrain: x\nval: x\nnames: [a]\ndownload: open('ran', 'w').close()\n"
    )
    for name in ("evil.yaml", str(evil), "../evil.yaml", "http://127.0.0.1:9/coco8.yaml", "coco8.yaml/../evil.yaml"):
        with pytest.raises(DataError, match="Ultralytics has no data set"):
            ultralytics_dataset(name)
    good.save(tmp_path / "coco8.yaml", evil.read_text())  # named like one of its own, and nearer
    with pytest.raises(DataError, match="can't be downloaded"):
        ultralytics_dataset("coco8.yaml")
    assert not (tmp_path / "ran").exists()


def test_the_allow_list_holds_when_ultralytics_was_imported_first(tmp_path: Path) -> None:
    """Its flag is read when it is imported; a notebook may have done that long before."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import torch; from ultralytics.nn import tasks\n"
        "from tests.hostile.case_models import Trap\n"
        "torch.save({'model': Trap()}, 'bad.pt')\n"
        "from detkd.errors import ModelError; from detkd.models.weights import build_detector, load_detector\n"
        "open('m.yaml', 'w').write('activation: __import__(\"os\").system(\"touch ran\")\\nnc: 1\\nbackbone: []\\nhead: []\\n')\n"
        "for call in (lambda: load_detector('bad.pt', key='teacher'), lambda: build_detector('m.yaml', ['a'], key='s')):\n"
        "    try: call()\n"
        "    except ModelError as err: print(err)\n"
    )
    environment = {
        key: value for key, value in os.environ.items() if key not in ("ULTRALYTICS_SAFE_LOAD", "DETKD_TRUST")
    }
    root = str(Path(__file__).resolve().parents[2])
    done = subprocess.run(
        [sys.executable, "-c", code, root], capture_output=True, text=True, env=environment, check=True
    )
    assert "was not opened" in done.stdout
    assert "does not describe a model" in done.stdout
    assert not (tmp_path / "ran").exists()


def test_only_trust_opens_what_is_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from detkd.models.weights import load_detector

    monkeypatch.delenv("DETKD_TRUST", raising=False)
    torch.save({"model": Trap()}, tmp_path / "bad.pt")
    with pytest.raises(ModelError, match="trust=true opens it"):
        load_detector(tmp_path / "bad.pt", key="teacher")
    assert not (tmp_path / "ran").exists()


def test_a_run_folder_can_not_ask_for_trust(tmp_path: Path) -> None:
    from detkd.config import compose

    good.save(tmp_path / "run/config.yaml", "trust: true\nepochs: 3\nplugins: []\n")
    assert compose("train", ["resume=run"])["trust"] is False
    assert compose("train", ["resume=run", "trust=true"])["trust"] is True
    good.save(tmp_path / "run/config.yaml", "plugins: [os]\n")
    with pytest.raises(ConfigError, match=r"plugins: the run in run used code of \['os'\]"):
        compose("train", ["resume=run"])
    assert compose("train", ["resume=run", "plugins=[os]"])["plugins"] == ["os"]


@pytest.mark.parametrize(
    "target", ["os.system", "detkd.io.write_text", "detkd.runs.clear_run", "detkd.losses.recipe.os.system"]
)
def test_a_recipe_names_losses_only(target: str) -> None:
    from detkd.tasks.recipes import make_recipe

    with pytest.raises(ConfigError, match=r"_target_: (must|detkd)"):
        make_recipe({"terms": {"x": {"loss": {"_target_": target, "path": "ran", "text": "x"}}}})


def test_data_files_are_not_instantiated() -> None:
    assert parse_yaml("_target_: os.system\ncommand: touch ran") == {"_target_": "os.system", "command": "touch ran"}
    from detkd.data.load import load_data

    good.save(Path("data.yaml"), "_target_: os.system\ncommand: touch ran\nformat: coco\n")
    with pytest.raises(DataError, match=r"data\._target_: no such key"):
        load_data("data.yaml")
    assert not Path("ran").exists()


def test_names_of_classes_and_files_stay_texts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A comparison of classes, images and files with such names: page, Markdown, CSV and terminal."""
    from detkd import cli

    labels = {
        "images": [{"id": n, "file_name": f"{name}.jpg", "width": 64, "height": 48} for n, name in enumerate(NAMES)],
        "annotations": [
            {"id": n, "image_id": n, "category_id": n, "bbox": [1, 1, 20, 20], "area": 400} for n in range(len(NAMES))
        ],
        "categories": [{"id": n, "name": name} for n, name in enumerate(NAMES)],
    }
    good.save(Path("gt.json"), labels)
    found = [{"image_id": n, "category_id": n, "bbox": [1, 1, 20, 20], "score": 0.5} for n in range(len(NAMES))]
    good.save(Path("a<b>[bold].json"), found)
    good.save(Path("b.json"), found[:4])
    words = ["compare", "before=a<b>[bold].json", "after=b.json", "gt=gt.json", "out=out"]
    assert cli.main([*words, "report.resamples=100", "report.permutations=0"]) == 0
    shown = "".join(capsys.readouterr())
    assert "\x1b[2J" not in shown
    assert "\u202e" not in shown
    page = Path("out/compare.html").read_text()
    assert "<script>alert" not in page
    assert "<b>[bold]" not in page
    assert "49" not in page.partition("{{")[1]
    assert all(
        not line.split(",")[1].startswith(("=", "+", "@")) for line in Path("out/compare.csv").read_text().splitlines()
    )
    assert "<script>" not in Path("out/compare.md").read_text()
    assert not Path("ran").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a<b>[bold].json", "b.json", "gt.json", "out"]
    assert not (tmp_path.parent / "x").exists()


def test_names_of_files_do_not_lead_elsewhere(tmp_path: Path) -> None:
    """The page's pictures are named by image id; a label file of somebody else may say anything there."""
    from detkd.report.review import write_review

    image = draw(tmp_path / "a.png")
    content = {
        "images": [{"id": "../../../escaped", "file_name": str(image), "width": 64, "height": 48}],
        "annotations": [],
        "categories": [{"id": 1, "name": "car"}],
    }
    good.save(tmp_path / "set/annotations.json", content)
    good.save(tmp_path / "set/provenance.json", {"complete": True})
    with pytest.raises(DataError, match="not labels made by detkd pseudolabel"):
        write_review(tmp_path / "set")
    assert not list(tmp_path.parent.rglob("*escaped*"))


def test_long_names_can_be_written(tmp_path: Path) -> None:
    with atomic_path(tmp_path / ("n" * 251 + ".jpg")) as temporary:
        temporary.write_text("x")
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("name", NAMES)
def test_messages_do_not_steer_the_terminal(name: str) -> None:
    shown = printable(name)
    assert all(letter.isprintable() or letter in "\n\t" for letter in shown)
    assert printable(shown) == shown


def test_json_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETKD_FILE_LIMIT_MB", "1")
    file = good.save(tmp_path / "a.json", json.dumps(["x" * 1_000_000]))
    with pytest.raises(DataError, match=r"has 1 MB, more than the 1 MB .* set DETKD_FILE_LIMIT_MB=2"):
        read_json(file)
    with pytest.raises(DataError, match="does not end"):
        read_bytes("/dev/zero")
    monkeypatch.setenv("DETKD_FILE_LIMIT_MB", "2")
    assert len(read_json(file)) == 1
    assert parse_json(json.dumps(["[" * 5000, '\\"[{' * 200]).encode())  # brackets in texts are no nesting
    for text in ("[" * 101 + "]" * 101, '{"a":' * 150 + "1" + "}" * 150):
        with pytest.raises(ValueError, match="nested more than 100 levels deep"):
            parse_json(text.encode())
    with pytest.raises(ValueError, match="nested"):
        parse_json(('["' + "]" * 9**5 + '",' + "[" * 9**5).encode())  # texts that hide the nesting


def test_a_picture_that_claims_billions_of_pixels_is_not_decoded(tmp_path: Path) -> None:
    import resource

    (tmp_path / "a.png").write_bytes(_bomb())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (info,) = check_images([tmp_path / "a.png"], verify="full")
    assert "DETKD_IMAGE_LIMIT_MP" in info.detail
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # kilobytes


def test_detkd_unpacks_no_archives(repo: Path) -> None:
    words = (
        "zipfile",
        "tarfile",
        "unpack_archive",
        "extractall",
        "pickle.load",
        "yaml.load(",
        "os.system(",
        "shell=True",
    )
    # Workers of a Ray cluster are this program on other machines: Ray itself hands them pickles.
    cluster = {repo / "detkd" / "caching" / name for name in ("ray_engine.py", "ray_worker.py")}
    for file in (repo / "detkd").rglob("*.py"):
        found = [word for word in words if word in file.read_text(encoding="utf-8")]
        assert found == (["pickle.load"] if file in cluster else []), file
