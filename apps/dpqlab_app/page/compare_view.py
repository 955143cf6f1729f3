"""Full precision against a compressed version: one slid over the other, and their difference."""

from __future__ import annotations

from dpqlab_app.drawing.pictures import before_after, difference, grid
from dpqlab_app.page.markup import picture_uri, text
from dpqlab_app.page.sheets import Row, Sheet


def compare_html(sheet: Sheet) -> str:
    """Return a panel for each compressed version, and buttons to choose one; empty without any."""
    full, *others = sheet.rows
    if not others:
        return ""
    panels = "".join(_panel(sheet, full, row, hidden=i > 0) for i, row in enumerate(others))
    return f'<section class="dq-compare"><h3>Look closer</h3>{_choice(others)}{panels}</section>'


def _choice(others: list[Row]) -> str:
    if len(others) < 2:
        return ""
    buttons = "".join(
        f'<label><input type="radio" name="dq-pick" value="{i}" onchange="dpqlab.pick(this)"'
        f"{' checked' if i == 0 else ''}>{text(row.title)}</label>"
        for i, row in enumerate(others)
    )
    return f'<div class="dq-picks" role="radiogroup" aria-label="Compare with">{buttons}</div>'


def _panel(sheet: Sheet, full: Row, row: Row, *, hidden: bool) -> str:
    return (
        f'<div class="dq-panel"{" hidden" if hidden else ""}>'
        f"{_slider(sheet, full, row)}{_difference(sheet, full, row)}</div>"
    )


def _slider(sheet: Sheet, full: Row, row: Row) -> str:
    before, after = before_after(full.images, row.images)
    names = text(", ".join(sheet.names))
    one, other = text(full.title), text(row.title)
    return (
        '<figure class="dq-slider" style="--x:50%"><div>'
        f'<img src="{picture_uri(after)}" alt="{other}: {names}">'
        f'<img class="dq-over" src="{picture_uri(before)}" alt="{one}: {names}">'
        '<i aria-hidden="true"></i><input type="range" min="0" max="100" value="50" '
        f'aria-label="Slide: {one} on the left, {other} on the right" '
        'oninput="dpqlab.slide(this)"></div>'
        f"<figcaption><span>◀ {one}</span><span>{other} ▶</span></figcaption></figure>"
    )


def _difference(sheet: Sheet, full: Row, row: Row) -> str:
    pixels, gain = difference(full.images, row.images)
    same = bool((full.images == row.images).all())
    times = "as it is" if gain == 1 else f"times {gain:g}"
    words = (
        "No difference: the pictures are equal in every pixel."
        if same
        else f"Difference {times}: grey where both agree, lighter or darker where {row.title} is."
    )
    names = text(", ".join(sheet.names))
    return (
        '<figure class="dq-difference"><div>'
        f'<img src="{picture_uri(grid([pixels]))}" alt="Difference {times} of {names}"></div>'
        f"<figcaption>{text(words)}</figcaption></figure>"
    )
