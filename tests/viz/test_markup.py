"""Names that come from files are words, whatever they hold: never markup, in no figure and no page.

plotly takes tags in texts for markup, links too; ``<b>`` and the like of our own stay.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import pytest

from dpqlab.diffusion import models
from dpqlab.report import Report
from dpqlab.viz.ablation import ablation
from dpqlab.viz.calibration_run import compare_runs
from dpqlab.viz.error_curve import cell_distribution, error_curve
from dpqlab.viz.error_map import Selection, error_map
from dpqlab.viz.page import render
from dpqlab.viz.pruning_path import pruning_path, sample_rows
from dpqlab.widgets import ErrorMap
from tests.test_report import report  # noqa: F401 - a fixture
from tests.viz.test_ablation import study  # noqa: F401 - a fixture
from tests.viz.test_calibration_run import RUN, recording
from tests.viz.test_error_map import make_trace
from tests.viz.test_pruning_path import run

LINK, IMAGE = '<a href="https://evil.example">here</a>', '"><img src=x onerror=alert(1)>'
EVIL = LINK + IMAGE


class Tags(HTMLParser):
    """Everything that a browser would make of a text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    @property
    def evil(self) -> list[tuple[str, dict[str, str | None]]]:
        return [
            (tag, attrs)
            for tag, attrs in self.found
            if "onerror" in attrs or "evil.example" in str(attrs.get("href"))
        ]


def texts(value: Any) -> Iterator[str]:
    """Yield every text that a figure shows; ``customdata`` and ``legendgroup`` are not shown."""
    if isinstance(value, dict):
        for key, part in value.items():
            if key not in ("customdata", "legendgroup", "source"):
                yield from texts(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from texts(part)
    elif isinstance(value, str):
        yield value


def test_the_signs_would_be_seen() -> None:
    assert len(Tags(f"<p>{EVIL}</p>").evil) == 2
    assert not Tags("<p>&lt;img src=x onerror=alert(1)&gt;</p>").evil


def figures(study: Any) -> dict[str, Any]:  # noqa: F811
    trace = make_trace(EVIL)
    results = tuple(replace(r, name=EVIL, change=EVIL, base=EVIL) for r in study.results)
    return {
        "error map": error_map([trace], selection=Selection(block=0, step=0, image=0)),
        "error curve": error_curve([trace]),
        "distribution": cell_distribution([trace], block=0, step=0),
        "runs": compare_runs([recording(EVIL, *RUN)]),
        "ablation": ablation(replace(study, results=results)),
        "pruning": pruning_path([run(EVIL)]),
        "samples": sample_rows({EVIL: run().teacher}),
    }


def test_no_figure_takes_a_name_for_markup(study: Any) -> None:  # noqa: F811
    for name, figure in figures(study).items():
        shown = list(texts(json.loads(figure.to_json())))
        assert not [t for t in shown if "<a " in t or "<img" in t], name
        assert any("&lt;a href" in t for t in shown), f"{name} does not show the name at all"


def test_no_report_takes_a_name_for_markup(report: Report) -> None:  # noqa: F811
    rows = tuple(replace(row, name=EVIL, family=EVIL, codec=EVIL) for row in report.rows)
    points = tuple(replace(p, layer=EVIL, family=EVIL, codec=EVIL) for p in report.points)
    facts = replace(report.facts, machine=EVIL, command=EVIL, versions={"dpqlab": EVIL})
    scalings = tuple(replace(s, row=rows[-1], larger=EVIL) for s in report.scalings)
    evil = replace(
        report, rows=rows, points=points, facts=facts, scalings=scalings, classes=(EVIL, "Bag")
    )
    page = render(evil)
    head, _, rest = page.partition("<script")
    assert not Tags(head).evil
    # figures are JSON within a script: nothing in it may end the script
    assert f"</script>{IMAGE}" not in rest
    assert "&lt;a href=&quot;https://evil" in page


def test_no_view_takes_a_name_for_markup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "ASSETS", tmp_path)
    runs = tmp_path / "fashion-dit-runs"
    runs.mkdir()
    made = make_trace()
    evil = replace(made, about=replace(made.about, student=EVIL, made=EVIL, device=EVIL))
    evil.save(runs / "trace-vq-1bit.npz")
    monkeypatch.chdir(tmp_path)
    view = ErrorMap()
    assert view.widget is not None
    view._show_code()
    said = [w.value for w in everything(view.widget) if isinstance(w, widgets.HTML)]
    assert said
    assert not [text for text in said if Tags(text).evil]
    assert not Tags(view._page().rpartition("</script>")[2]).evil


def everything(widget: Any) -> Iterator[Any]:
    yield widget
    for child in getattr(widget, "children", ()):
        yield from everything(child)
