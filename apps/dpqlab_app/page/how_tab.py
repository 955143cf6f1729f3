"""The tab "How it works": a figure of each of the five views, as the notebooks draw them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import gradio as gr

from dpqlab.errors import DPQError
from dpqlab_app.page.markup import text

if TYPE_CHECKING:
    import plotly.graph_objects as go

INTRO = (
    "A weight matrix is cut into short pieces, sub-vectors. Each is replaced by a code: the number "
    "of a similar codeword in a codebook. A code of 8 bits for 8 weights is one bit a weight. Five "
    "questions follow from that. Each has a notebook in which you can turn the knobs: "
    "`make lab` opens them."
)


@dataclass(frozen=True, kw_only=True)
class Chapter:
    """One view: its question, what its figure shows, the notebook, and the figure."""

    title: str
    words: str
    notebook: str
    figure: Callable[[], go.Figure | None]


def codecs() -> go.Figure:
    """Where one codebook wins, and where many small ones do."""
    from dpqlab.studies.codec_contest import bundled_contest
    from dpqlab.viz.codec_contest import who_wins

    return who_wins(bundled_contest())


def importance() -> go.Figure | None:
    """What happens when codewords go, by three ideas of which matter least."""
    from dpqlab.studies.removal_records import bundled_removals
    from dpqlab.viz.importance import removal_race

    found = bundled_removals("dpq-4bit")
    recorded = None if found is None else found.of("attn1.to_q")
    if recorded is None:
        return None
    return removal_race(recorded.removals, whole=recorded.output_error)


def pruning() -> go.Figure:
    """The error against the bits while the pool gets smaller."""
    from dpqlab.studies.pruning_runs import bundled_run
    from dpqlab.viz.pruning_path import pruning_path

    return pruning_path([bundled_run(name) for name in ("dpq-4bit", "dpq-3bit")])


def calibration() -> go.Figure:
    """How calibration brings a broken model back."""
    from dpqlab.calibration.recording import bundled_recordings
    from dpqlab.viz.calibration_run import compare_runs

    return compare_runs(bundled_recordings())


def errors() -> go.Figure:
    """Errors by block and timestep, at two bits and at one."""
    from dpqlab.tracing import load_trace
    from dpqlab.viz.error_map import error_map

    return error_map((load_trace("best-2bit"), load_trace("best-1bit")))


CHAPTERS = (
    Chapter(
        title="One codebook, or many?",
        words=(
            "Vector quantization has one codebook for a layer, product quantization one for every "
            "column position. At equal bits the winner depends on the layer: where neighbouring "
            "columns go together, codebooks of their own pay."
        ),
        notebook="01_vq_vs_pq",
        figure=codecs,
    ),
    Chapter(
        title="Which codewords matter?",
        words=(
            "Take codewords away, the least important first, and measure what the layer does. How "
            "often one is used is a poor guide as long as few go: what counts is what its removal "
            "costs."
        ),
        notebook="02_codebook_importance",
        figure=importance,
    ),
    Chapter(
        title="How small can the pool get?",
        words=(
            "Codebooks cost bits too. Pruning the pool of codewords is nearly free for a while, "
            "and then, without calibration, the model falls off a cliff."
        ),
        notebook="03_pruning_the_pool",
        figure=pruning,
    ),
    Chapter(
        title="How does it learn to draw again?",
        words=(
            "Right after compression the model draws noise. Calibration pays it for doing what "
            "full precision does with the same noisy picture, in every block. Where codes move "
            "along with codewords (best), less error is left at the same size."
        ),
        notebook="04_calibration",
        figure=calibration,
    ),
    Chapter(
        title="Where does the error go?",
        words=(
            "Each block adds a little error and passes on what it got, and each step draws on what "
            "the last one left. The same scale of colours for two bits and for one."
        ),
        notebook="05_error_accumulation",
        figure=errors,
    ),
)


@lru_cache(maxsize=1)
def figures() -> tuple[go.Figure | None, ...]:
    """Return the figures of all chapters; made once, from what is on record.

    None stands for one whose record this installation lacks.
    """
    found: list[go.Figure | None] = []
    for chapter in CHAPTERS:
        try:
            found.append(chapter.figure())
        except DPQError:
            found.append(None)
    return tuple(found)


def how_tab(tab: gr.Tab) -> None:
    """Lay the tab out, within ``tab``; the figures come when it is opened first."""
    here = gr.State(False)
    gr.HTML(f'<p class="dq-intro">{_with_code(INTRO)}</p>')
    plots = []
    for number, chapter in enumerate(CHAPTERS, 1):
        with gr.Column(elem_classes="dq-chapter"):
            gr.HTML(
                f"<h3>{number}. {text(chapter.title)}</h3><p>{text(chapter.words)} "
                f"<small>Notebook: <code>notebooks/{chapter.notebook}.ipynb</code></small></p>"
            )
            plots.append(
                gr.Plot(
                    show_label=False,
                    container=False,
                    elem_id=f"dq-chapter-{number}",
                    elem_classes="dq-wide",
                )
            )

    def fetch(there: bool) -> list[Any]:
        if there:
            return [gr.skip()] * (1 + len(plots))
        return [True, *figures()]

    tab.select(fetch, here, [here, *plots], show_progress="hidden", api_visibility="private")


def _with_code(words: str) -> str:
    pieces = words.split("`")
    return "".join(
        f"<code>{text(piece)}</code>" if i % 2 else text(piece) for i, piece in enumerate(pieces)
    )
