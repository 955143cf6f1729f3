"""No test of a widget may need a browser or the network."""

from __future__ import annotations

import pytest

pytest.importorskip("anywidget", reason="the extra 'lab' is not installed")


@pytest.fixture(autouse=True)
def no_plotly_bundle(monkeypatch):
    """Making a Plot need not compress plotly.js, except where that is the point."""
    from dpqlab.widgets.plot import Plot

    monkeypatch.setattr(Plot, "_carried", True)
