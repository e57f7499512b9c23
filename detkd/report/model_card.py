"""The model card that goes with an exported detector: a page of Markdown with everything known about it."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from detkd.errors import ConfigError, DataError, ModelError
from detkd.evaluation.tables import COST_COLUMNS, cost_cells
from detkd.io import read_json, write_text
from detkd.report.card_facts import config_text, measured_on, per_class_rows, result_rows, shorten, use_facts
from detkd.runs import read_config

__all__ = ["CARD_FILE", "card_for", "model_card", "read_run", "training_run", "write_card"]

CARD_FILE = "MODEL_CARD.md"

_FORMATS = {"onnx": "ONNX", "openvino": "OpenVINO", "openvino_int8": "OpenVINO with 8 bit integers"}
_CLASSES = 100


def training_run(weights: str | Path) -> Path | None:
    """Return the run folder that weights lie in (`RUN/weights/last.pt`, or RUN itself), None where they lie alone."""
    path = Path(weights)
    places = (path, path.parent.parent)
    return next((place for place in places if (place / "run.json").is_file()), None)


def read_run(folder: Path) -> dict[str, Any]:
    """Return what a run folder knows, under `config`, `run`, `outcome`, `metrics`, `comparison` and `data`.

    Files that are missing or of another version are left out: a card says less then, it does not fail.
    """
    found: dict[str, Any] = {}
    try:
        found["config"] = read_config(folder)
    except ConfigError:
        found["config"] = None
    names = {"run": "run", "outcome": "outcome", "metrics": "metrics", "comparison": "compare", "data": "skipped"}
    for key, name in names.items():
        try:
            content = read_json(folder / f"{name}.json")
        except DataError:
            content = None
        found[key] = content if isinstance(content, dict) else None
    comparison = found["comparison"]
    if comparison is not None and (comparison.get("schema"), comparison.get("kind")) != (2, "comparison"):
        found["comparison"] = None
    return found


def card_for(run_folder: Path | None, export: Mapping[str, Any], config: Mapping[str, Any] | None = None) -> str:
    """Return the card of an exported file.

    Args:
        run_folder: Folder of the run that trained it, see `training_run`; None for weights of unknown origin.
        export: What `ExportResult.to_dict` returns.
        config: Configuration of `detkd export`, for the command that repeats it and the checkpoint; None where another
            verb exported what the run reports.
    """
    known = read_run(run_folder) if run_folder is not None else {}
    weights = _exported(config or {}) if known.get("metrics") else None
    if weights is not None and not measured_on(known["metrics"], weights):
        known["unmeasured"] = weights.name
    name = run_folder.resolve().name if run_folder is not None else Path(str(export["path"])).stem
    return model_card(name, export, known, config)


def _exported(config: Mapping[str, Any]) -> Path | None:
    """Return the file that `detkd export` exported, None where that can't be told."""
    from detkd.models.weights import resolve

    value = (config.get("model") or {}).get("path")
    try:
        file = resolve(value, key="model") if value else None
    except ModelError:
        return None
    return file if file is not None and file.is_file() else None


def write_card(text: str, folder: str | Path) -> Path:
    """Write a card into the folder of the exported file and return its path."""
    return write_text(Path(folder) / CARD_FILE, text)


def model_card(
    name: str, export: Mapping[str, Any], known: Mapping[str, Any], export_config: Mapping[str, Any] | None = None
) -> str:
    """Return a model card as Markdown.

    Args:
        name: Of the model.
        export: What `ExportResult.to_dict` returns.
        known: What `read_run` returns; each part may be missing or None. `unmeasured` names the checkpoint where its
            numbers are those of another one.
        export_config: Configuration of `detkd export`, or None.
    """
    config, record = known.get("config"), known.get("metrics") or {}
    metrics, comparison, unmeasured = record.get("metrics"), known.get("comparison"), known.get("unmeasured")
    run, data = known.get("run") or {}, known.get("data") or {}
    classes = list((metrics or {}).get("per_class") or {})
    if unmeasured:
        metrics = comparison = None
    sides = {entry["role"]: entry for entry in comparison["entries"]} if comparison else {}
    costs = [(side["name"], side["cost"]) for side in sides.values() if side.get("cost")]
    if not costs and record.get("cost") and not unmeasured:
        costs = [("original", record["cost"])]
    facts = {
        "name": name,
        "export": export,
        "file": Path(str(export["path"])).name,
        "format_name": _FORMATS.get(str(export["format"]), str(export["format"])),
        "summary": _summary(config, export, classes),
        "taught": bool((config or {}).get("teacher")),
        "network": _network(config, export),
        "params": (record.get("cost") or {}).get("params"),
        "classes": classes[:_CLASSES] + (["..."] if len(classes) > _CLASSES else []),
        "objects_text": _cell(_few(classes)) if classes else "the classes stored in it",
        "created": str(run.get("finished") or run.get("started") or "")[:10],
        "config": config,
        "config_yaml": config_text(config) if config else "",
        "data_text": _data_text(config or {}, data),
        "data_notes": [shorten(note) for note in data.get("notes") or []],
        "teacher_text": _teacher_text(config or {}, sides),
        "metrics": metrics,
        "comparison": comparison,
        "evaluation_text": _evaluation_text(record) if metrics else "",
        "verdict": comparison["verdict"]["sentence"] if comparison else None,
        "remarks": _remarks(comparison),
        "before": sides["before"]["name"] if "before" in sides else "",
        "results": result_rows(metrics, comparison) if metrics else [],
        "per_class": per_class_rows(metrics, comparison)[:_CLASSES] if metrics else [],
        "classes_left": max(len(classes) - _CLASSES, 0),
        "level": f"{(comparison or {}).get('statistics', {}).get('level') or 0.95:.0%}" if comparison else "",
        "cost_columns": ["detector", *COST_COLUMNS],
        "costs": [[side, *cost_cells(cost)] for side, cost in costs],
        "cost_device": next((str(cost["device"]) for _, cost in costs if cost.get("device")), "the same device"),
        **use_facts(record, metrics, comparison, export, unmeasured),
        "commands": _commands(run, export_config),
        "environment": _environment(run),
        "hashes": _hashes(known),
    }
    text: str = _templates().get_template("model_card.md.j2").render(facts)
    return text.rstrip() + "\n"


def _templates() -> Environment:
    # Markdown, not HTML: `cell` escapes what Markdown would take for its own.
    environment = Environment(
        loader=PackageLoader("detkd.report", "templates"), undefined=StrictUndefined, autoescape=False
    )
    environment.filters["cell"] = _cell
    environment.filters["code"] = lambda text: str(text).replace("`", "'").replace("|", "\\|")
    environment.globals["table"] = _table
    return environment


def _cell(text: object) -> str:
    """Return text that stays one line and one table cell, without tags or Markdown of its own."""
    line = " ".join(str(text).split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    for char in "\\`*_[]|":
        line = line.replace(char, f"\\{char}")
    return line


def _table(head: Sequence[str], lines: Iterable[Sequence[str]], text_columns: int) -> str:
    rule = ["---" if index < text_columns or name in ("verdict", "head") else "---:" for index, name in enumerate(head)]
    cells = [[_cell(name) for name in head], rule, *([_cell(value) for value in line] for line in lines)]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def _summary(config: Mapping[str, Any] | None, export: Mapping[str, Any], classes: Sequence[str]) -> str:
    what = f"An object detector for {_few([_cell(name) for name in classes])}" if classes else "An object detector"
    how = ""
    if config:
        data = _cell(_name((config.get("data") or {}), "its training data"))
        teacher = _name(config.get("teacher") or {}, "")
        taught = f", which learned from labels and from the teacher {_cell(teacher)}" if teacher else ""
        how = f", trained on {data}{taught}"
    return f"{what}{how}, exported to {_FORMATS.get(str(export['format']), export['format'])} by detkd."


def _few(names: Sequence[str], most: int = 8) -> str:
    if len(names) > most:
        return f"{', '.join(names[:most])} and {len(names) - most} more classes"
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else "".join(names)


def _name(node: Any, default: str) -> str:
    """Return the short name of a `data`, `teacher` or `student` group."""
    if not isinstance(node, Mapping):
        return Path(str(node)).name if node else default
    value = node.get("name") or node.get("path")
    return Path(str(value)).name if value else default


def _network(config: Mapping[str, Any] | None, export: Mapping[str, Any]) -> str:
    node = (config or {}).get("student") or (config or {}).get("model")
    if not isinstance(node, Mapping) or not node.get("path"):
        return f"not known beyond its file name, {Path(str(export['path'])).stem}"
    scale = ", ".join(f"{key} {value}" for key, value in (node.get("scale") or {}).items())
    path = str(node["path"])
    start = ""
    if path.endswith((".yaml", ".yml")):
        sliced = node.get("slice")
        start = f", from channels of {Path(str(sliced)).name}" if sliced else ", from random weights"
    return Path(path).name + (f", scaled: {scale}" if scale else "") + start


def _data_text(config: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    node = config.get("data")
    parts = [f"Data: {_cell(data.get('data') or _name(node, 'not known'))}."]
    splits = data.get("splits")
    if isinstance(splits, Mapping):
        counts = [f"{name} {part.get('images')} images, {part.get('objects')} objects" for name, part in splits.items()]
        parts.append("; ".join(counts) + ".")
    if data.get("skipped"):
        parts.append(f"{data['skipped']} records were left out as unusable.")
    if isinstance(node, Mapping) and node.get("format") == "toy":
        parts.append("The images are drawn by a program, not taken by a camera.")
    return " ".join(parts)


def _teacher_text(config: Mapping[str, Any], sides: Mapping[str, Any]) -> str:
    teacher = config.get("teacher")
    if not teacher:
        return "Teacher: none, it learned from labels alone."
    entry = sides.get("teacher") or next((side for side in sides.values() if side["name"] == "teacher"), None)
    points = None if entry is None else entry["metrics"].get("AP")
    return f"Teacher: {_cell(_name(teacher, 'not known'))}" + ("." if points is None else f", AP {points:.2f}.")


def _evaluation_text(record: Mapping[str, Any]) -> str:
    metrics = record["metrics"]
    protocol = metrics.get("protocol") or {}
    settings = protocol.get("settings") or {}
    words = [f"{key} {settings[key]}" for key in ("imgsz", "conf", "iou", "max_det", "head") if settings.get(key)]
    engine = f"{protocol.get('engine')} {protocol.get('engine_version')}"
    return (
        f"COCO AP x 100 on the {record.get('split') or 'test'} split: {metrics['images']} images, {metrics['objects']} "
        f"objects, {protocol.get('crowd') or 0} crowd regions; {_cell(', '.join([engine, *words]))}."
    )


def _remarks(comparison: Mapping[str, Any] | None) -> list[str]:
    if comparison is None:
        return []
    notes = [note["text"] for note in comparison["notes"] if note["level"] in ("differs", "warning")]
    control = comparison.get("control_verdict")
    words = [comparison["verdict"].get("seeds"), control["sentence"] if control else None]
    return [shorten(text) for text in [*words, *notes] if text]


def _commands(run: Mapping[str, Any], export_config: Mapping[str, Any] | None) -> list[str]:
    commands = []
    if words := run.get("command"):
        commands.append(shlex.join(str(shorten(word)) for word in words))
    if export_config is not None:
        keys = {"model": (export_config.get("model") or {}).get("path"), "format": export_config.get("format")}
        keys["data"] = _name(export_config.get("data") or {}, "") or None
        keys |= {key: export_config.get(key) for key in ("imgsz", "nms")}
        words = [f"{key}={str(value).lower() if isinstance(value, bool) else shorten(str(value))}"
                 for key, value in keys.items() if value is not None]  # fmt: skip
        commands.append(shlex.join(["detkd", "export", *words]))
    return commands or ["detkd export model=WEIGHTS"]


def _environment(run: Mapping[str, Any]) -> str:
    made = run.get("environment")
    if not made:
        return ""
    versions = ", ".join(f"{name} {version}" for name, version in (made.get("versions") or {}).items() if version)
    commit = f" Commit {made['commit']} of detkd." if made.get("commit") else ""
    return f"Python {made.get('python')}, {versions}; {made.get('system')}, {_cell(made.get('cpu'))}.{commit}"


def _hashes(known: Mapping[str, Any]) -> list[str]:
    outcome, metrics = known.get("outcome") or {}, (known.get("metrics") or {}).get("metrics") or {}
    if known.get("unmeasured"):
        metrics = {}  # hashes of the evaluation of another checkpoint
    protocol = metrics.get("protocol") or {}
    weights = (protocol.get("settings") or {}).get("weights_sha256")
    seed = (known.get("run") or {}).get("seed")
    lines = [
        ("seed", seed),
        ("epochs", outcome.get("epochs")),
        ("seconds of training", None if outcome.get("seconds") is None else f"{outcome['seconds']:.0f}"),
        ("initial weights", outcome.get("initial_hash")),
        ("first batches", outcome.get("batch_hash")),
        ("labels of the evaluation, SHA-256", protocol.get("gt_sha256")),
        ("weights, SHA-256", weights),
    ]
    return [f"{label}: `{value}`" for label, value in lines if value is not None]
