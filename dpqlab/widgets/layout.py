"""How parts of a view stand beside each other."""

from __future__ import annotations

import ipywidgets as widgets


def row(*parts: widgets.Widget) -> widgets.Box:
    """Return a row that wraps where the page is narrow."""
    return widgets.Box(parts, layout={"flex_flow": "row wrap", "align_items": "center"})
