from __future__ import annotations

import copy
import json
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from detkd.report.comparison import Comparison
from detkd.report.leaderboard import rank
from detkd.report.page import render_comparison, render_leaderboard
from detkd.report.page_format import as_json, look_up, number_text, path_text
from tests.report.conftest import QUICK, run_of, side_of

HOSTILE = "</script><b onclick=alert(1)>&amp;\u2028"


class Text(HTMLParser):
    """The words of a page, and every address it names."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in {"src", "href", "srcset", "action"}]

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def test_page_is_one_file_without_addresses(better: Comparison) -> None:
    html = render_comparison(better.to_dict(), None)
    page = Text(html)
    assert [address for address in page.addresses if not address.startswith(("#", "data:"))] == []
    assert "Content-Security-Policy" in html
    assert not {"iframe", "object", "embed"} & set(page.tags)
    order = [page.text.index(question) for question in ("Is it better", "Where?", "Why?", "Show me", "Can I trust it?")]
    assert order == sorted(order)
    assert len(html) < 2_000_000


def test_what_is_missing_is_said(better: Comparison) -> None:
    report = better.to_dict()
    for entry in report["entries"]:
        entry["cost"] = None
        entry["settings"] = {}
    report |= {"entries": report["entries"][:2], "control_verdict": None}
    report["protocol"]["settings"] = []
    for row in report["rows"]:
        row.pop("vs_control")
        for part in ("values", "intervals"):
            row[part] = {role: row[part][role] for role in ("before", "after")}
        row |= {"gap_closed": None, "gap_interval": None}
    text = Text(render_comparison(report, None)).text
    assert "Cost is not known of old, new" in text
    assert "No teacher was given" in text
    open_gap = copy.deepcopy(better.to_dict())
    open_gap["rows"][0]["gap_interval"] = [0.2, None]
    assert "n/a" in Text(render_comparison(open_gap, None)).text


def test_names_stay_text(gt: dict[str, Any]) -> None:
    odd = {**gt, "categories": [{**c, "name": f"{HOSTILE}{n}"} for n, c in enumerate(gt["categories"])]}
    sides = [side_of(f"{HOSTILE} {n}", "run", run_of(odd, n, 0.1)) for n in range(2)]
    board = rank(sides, settings=QUICK, progress=False).to_dict()
    html = render_leaderboard(board)
    assert "<b onclick" not in html
    assert HOSTILE.split("\u2028")[0] in Text(html).text
    (embedded,) = re.findall(r'<script type="application/json" id="report">(.*?)</script>', html, re.DOTALL)
    assert json.loads(embedded) == board


@pytest.mark.parametrize(
    ("value", "kind", "text"),
    [
        (None, "1", "n/a"), (12.345, "1", "12.3"), (0.0, "+2", "0.00"), (-0.001, "+2", "0.00"), (1.5, "+1", "+1.5"),
        (-1.5, "+1", "\N{MINUS SIGN}1.5"), (0.183, "%", "18%"), (0.0004, "p", "<0.001"), (0.04, "p", "0.040"),
        (2_390_000, "M", "2.39 M"), ([1, 10, 100], "text", "1, 10, 100"), (1078, "0", "1,078"),
    ],
)  # fmt: skip
def test_numbers_as_people_read_them(value: Any, kind: str, text: str) -> None:
    assert number_text(value, kind) == text


def test_places_in_the_json() -> None:
    report = {"rows": [{"values": {"before": 1.5}}], "entries": {"a b": None}}
    assert path_text(("rows", 0, "values", "before")) == "rows[0].values.before"
    assert look_up(report, ("rows", 0, "values", "before")) == 1.5
    assert look_up(report, ("entries", "a b", "AP")) is None
    assert look_up(report, ("nothing", 3)) is None
    assert "</" not in as_json({"name": HOSTILE})
    with pytest.raises(ValueError, match="JSON"):
        as_json(float("nan"))
