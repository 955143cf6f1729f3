"""A drawing as HTML: a card for each version, the tools below, progress while it is made."""

from __future__ import annotations

from dpqlab_app.drawing.catalogue import Catalogue
from dpqlab_app.drawing.frames import Frame
from dpqlab_app.page.markup import COLOURS, image_uri, megabytes, plural, png_uri, text
from dpqlab_app.page.sheets import Row, Sheet

RECORDED = "A recorded example. Press Draw for your own, with its times."
TRUE_BITS = "Everything stored for the weights of the blocks, codebooks included, over their number"


def result_html(sheet: Sheet, catalogue: Catalogue) -> str:
    """Return the cards of all versions; with links to the files once the pictures are done.

    Parameters
    ----------
    sheet
        What to show.
    catalogue
        For the Python that draws the same.
    """
    cards = "".join(_card(sheet, row) for row in sheet.rows)
    return (
        f'<div class="dq-result" data-query="{text(sheet.settings.to_query())}"'
        f' data-done="{int(sheet.done and not sheet.recorded)}">'
        f"{cards}{_notes(sheet)}{_tools(sheet, catalogue) if sheet.done else ''}</div>"
    )


def progress_html(frame: Frame) -> str:
    """Say how far a drawing is."""
    step, total = frame.index + 1, frame.total
    if frame.done:
        what = plural(len(frame.settings.labels) * len(frame.versions), "picture")
        return status_html(f"Done: {what} in {frame.seconds:.1f} s.", share=1.0)
    left = f", about {frame.remaining:.0f} s left" if frame.index else ""
    return status_html(f"Step {step} of {total}{left}", share=step / total, busy=True)


def status_html(
    words: str, *, share: float | None = None, busy: bool = False, bad: bool = False
) -> str:
    """Return the line that tells what goes on.

    Parameters
    ----------
    words
        As plain text.
    share
        How much is done, 0 to 1; None for no bar.
    busy
        Whether work goes on: Stop looks as if it could be pressed.
    bad
        Whether this is about something that did not work.
    """
    bar = ""
    if share is not None:
        bar = f'<b class="dq-bar" aria-hidden="true"><i style="width:{100 * share:.1f}%"></i></b>'
    state = " dq-bad" if bad else ""
    role = "alert" if bad else "status"
    return (
        f'<div class="dq-status{state}" data-busy="{int(busy)}"><span role="{role}">'
        f"{text(words)}</span>{bar}</div>"
    )


def stopped_html(step: int, total: int, what: str = "") -> str:
    """Say after which step something was stopped, and what is to be seen of it."""
    if not step:
        return status_html("Stopped before the first step.")
    return status_html(f"Stopped after step {step} of {total}{what}.", share=step / total)


def _card(sheet: Sheet, row: Row) -> str:
    figures = "".join(_figure(sheet, row, i) for i in range(len(row.images)))
    colour = COLOURS.get(row.family, COLOURS["own"])
    small = "".join(
        f'<div title="{text(tip)}"><dt>{text(name)}</dt><dd>{value}</dd></div>'
        for name, value, tip in _facts(sheet, row)
    )
    return (
        f'<section class="dq-card" style="--family:{colour};--n:{len(row.images)}" '
        f'aria-label="{text(row.title)}"><h3>{text(row.title)}</h3>'
        f'<div class="dq-strip">{figures}</div><dl class="dq-facts">{small}</dl></section>'
    )


def _figure(sheet: Sheet, row: Row, place: int) -> str:
    name = sheet.names[place]
    image = (
        f'<img src="{image_uri(row.images[place])}" alt="{text(name)}, {text(row.title)}" '
        f'width="{sheet.model.side}" height="{sheet.model.side}">'
    )
    if sheet.done:
        file = sheet.file_name(row.key, name.lower(), str(place))
        image = (
            f'<a href="{png_uri(sheet.image_png(row, place))}" download="{text(file)}.png" '
            f'title="Download this picture">{image}</a>'
        )
    return f"<figure>{image}<figcaption>{text(name)}</figcaption></figure>"


def _facts(sheet: Sheet, row: Row) -> list[tuple[str, str, str]]:
    """Name, value (HTML) and explanation of what a version costs."""
    bits = "?" if row.true_bits is None else f"{row.true_bits:.2f}"
    found = [
        ("true bits a weight", f"<strong>{bits}</strong>", TRUE_BITS),
        ("on disk", megabytes(row.disk_bytes) + _times(sheet, row), "All weight files"),
    ]
    facts, ms = row.facts, row.ms_per_step
    if facts is None or ms is None:
        return found
    tables = megabytes(facts.modulation_bytes)
    memory = f"Weights and buffers in {facts.dtype}; tables made ahead for this run: {tables} more"
    return [
        *found,
        ("in memory", megabytes(facts.weight_bytes), memory),
        ("a step", f"{ms:.0f} ms", "Median over the steps so far, all images at once"),
        ("drawn by", text(facts.backend), f"What multiplies by the weights, on {facts.device}"),
    ]


def _times(sheet: Sheet, row: Row) -> str:
    full = sheet.rows[0].disk_bytes
    if row is sheet.rows[0] or not row.disk_bytes:
        return ""
    return f"<small>{full / row.disk_bytes:.1f} times smaller</small>"


def _notes(sheet: Sheet) -> str:
    notes = [RECORDED] if sheet.recorded else []
    return "".join(f'<p class="dq-note">{text(note)}</p>' for note in [*notes, *sheet.notes])


def _tools(sheet: Sheet, catalogue: Catalogue) -> str:
    file = sheet.file_name(*(row.key for row in sheet.rows))
    return (
        '<div class="dq-tools">'
        '<button type="button" onclick="dpqlab.copyLink(this)">Copy link</button>'
        '<button type="button" onclick="dpqlab.copyCode(this)">Copy as code</button>'
        f'<a href="{png_uri(sheet.png())}" download="{text(file)}.png">Download PNG</a></div>'
        '<details class="dq-code"><summary>The Python that draws the same pictures</summary>'
        f"<pre><code>{text(sheet.settings.code(catalogue))}</code></pre></details>"
    )
