"""The HTML page of a comparison or a leaderboard: one file, no network, readable without scripts."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from detkd.io import write_text
from detkd.report.page_board import Board
from detkd.report.page_format import as_json, number_text
from detkd.report.page_views import Page
from detkd.report.page_why import Why

__all__ = ["render_comparison", "render_leaderboard", "write_page"]


def render_comparison(report: Mapping[str, Any], gallery: Mapping[str, Any] | None) -> str:
    """Return the page of a comparison.

    It answers in this order: is it better and how sure are we, where, why, show me, can I trust it. Every number
    carries `data-path`, its place in the JSON that the page embeds, and `data-as`, how it is rounded.

    Args:
        report: The dictionary of compare.json (schema 2). Parts that are None are replaced by a sentence that says how
            to get them.
        gallery: Crops and frames with their boxes (`objects`, `frames`, `note`), or None. They are put into the page as
            JSON and become pictures when they come into view.

    Raises:
        KeyError: If the dictionary is not of this schema.
    """
    page = Page(report, gallery)
    pictures = as_json(gallery) if page.gallery.get("objects") or page.gallery.get("frames") else None
    return _render("comparison.html.j2", page=page, why=Why(page), report=report, pictures=pictures)


def render_leaderboard(report: Mapping[str, Any]) -> str:
    """Return the page of a leaderboard: ranks, accuracy against cost, verdicts against the reference, classes.

    Raises:
        KeyError: If the dictionary is not that of leaderboard.json (schema 2).
    """
    return _render("leaderboard.html.j2", page=Board(report), report=report, pictures=None)


def write_page(html: str, path: str | Path) -> Path:
    """Write a page and return its path; the file is either complete or absent.

    Raises:
        DataError: If the folder can't be written.
    """
    return write_text(path, html)


def _render(template: str, *, report: Mapping[str, Any], **values: Any) -> str:
    environment = _environment()
    style, script = (_source(name) for name in ("page.css", "page.js"))
    # Only this very script may run: a class name or file name that smuggles one in stays text even if it got through.
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template(template).render(
        report=report,
        embedded=as_json(report),
        style=Markup(style),
        script=Markup(script),
        digest=digest,
        **values,
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("detkd.report", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters["number"] = number_text
    return environment


@cache
def _source(name: str) -> str:
    loader = _environment().loader
    assert loader is not None
    return loader.get_source(_environment(), name)[0].strip()
