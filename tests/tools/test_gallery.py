from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tools import gallery, gallery_pictures
from tools.gallery import (
    Page,
    code_html,
    document,
    index,
    stacked,
    views_of,
    with_files,
    write_picture,
)
from tools.gallery_pictures import image_html, png_bytes

pytest.importorskip("anywidget", reason="the extra 'lab' is not installed")


def picture(width: int = 30, height: int = 20, colour: str = "red") -> Image.Image:
    return Image.new("RGB", (width, height), colour)


def page(*images: str) -> Page:
    return Page(name="01_x", title="X", body="<h1>X</h1>" + "".join(images))


def test_pictures_move_to_files_of_their_own(tmp_path: Path) -> None:
    body = with_files(page(image_html(picture(), 'a "b"', "plot", "vq")), tmp_path / "pictures")
    assert "base64" not in body and 'src="pictures/01_x-01.png"' in body
    assert 'alt="a &quot;b&quot;"' in body, "those who do not see it are told"
    assert Image.open(tmp_path / "pictures" / "01_x-01.png").size == (30, 20)


def test_a_page_names_nobody_outside_and_runs_nothing() -> None:
    for text in (document("T", "<p>x</p>", "index.html"), index([page()])):
        assert "http" not in text and "<script" not in text and "@import" not in text


def test_the_pictures_of_a_view_are_found_by_its_name() -> None:
    made = page(
        image_html(picture(), "", "plot", "vq"),
        image_html(picture(10, 5), "", "pixels", "vq"),
        image_html(picture(), "", "plot"),
    )
    (found,) = views_of(made).values()
    assert [one.size for one in found] == [(30, 20), (10, 5)]
    assert stacked(found).size == (30, 20 + gallery.GAP + 5), "one far too small stays small"


def test_small_pictures_of_a_size_stand_in_a_row() -> None:
    wide, small = picture(200, 50), picture(80, 40, "blue")
    sheet = stacked([wide, small, small])
    row = 2 * 80 + gallery.GAP
    assert sheet.size == (200, 50 + gallery.GAP + round(40 * 200 / row))
    assert sheet.getpixel((199, sheet.height - 1)) == (0, 0, 255), "as wide as the others"


def test_pictures_for_the_readme_fit_their_limit(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (700, 900), dtype=np.uint8)
    size = write_picture(tmp_path / "a" / "b.png", Image.fromarray(noise).convert("RGB"))
    assert size == (tmp_path / "a" / "b.png").stat().st_size <= gallery.LARGEST_PICTURE


def test_formulas_become_mathml_and_code_stays() -> None:
    pytest.importorskip("mistune")
    text = "Bits: $\\log_2 k$ and `a$b$c`.\n\n| a | b |\n|---|---|\n| 1 | 2 |\n"
    html = gallery.markdown_html(text)
    assert "<table>" in html and "FORMULA" not in html
    assert "<math" in html or "<code>\\log_2 k</code>" in html
    assert "a$b$c" in html


def test_long_code_is_folded() -> None:
    assert code_html("a\nb").startswith("<pre>")
    assert code_html("a\nb\nc\nd").startswith("<details>")


def test_outputs_without_meaning_here_are_left_out() -> None:
    class Output(dict[str, Any]):
        __getattr__ = dict.__getitem__

    stderr = Output(output_type="stream", name="stderr", text="a warning")
    stdout = Output(output_type="stream", name="stdout", text="1 < 2")
    bar = Output(
        output_type="display_data",
        data={"text/plain": "bar", "application/vnd.jupyter.widget-view+json": {}},
    )
    shown = [gallery.output_html(output) for output in (stderr, stdout, bar)]
    assert shown == ["", '<pre class="out">1 &lt; 2</pre>', ""]


def test_widgets_become_pictures_and_words(monkeypatch: pytest.MonkeyPatch) -> None:
    import ipywidgets as widgets
    import plotly.graph_objects as go

    from dpqlab.widgets import Pixels, Plot

    monkeypatch.setattr(Plot, "_carried", True)
    monkeypatch.setattr(gallery_pictures, "plot_picture", lambda _figure: picture(90, 60))
    hidden = widgets.HTML("secret")
    hidden.layout.display = "none"
    box = widgets.VBox(
        [
            widgets.IntSlider(),
            widgets.HTML("<p>said</p>"),
            widgets.HTML("<p></p>"),
            hidden,
            Plot(go.Figure(go.Scatter(y=[1])), label="a line"),
            Plot(go.Figure()),
            Pixels(np.zeros((4, 6), np.uint8), label="dark", zoom=5),
        ]
    )
    html = gallery_pictures.widget_html(box, "view")
    assert "said" in html and "secret" not in html
    assert html.count("<img") == 2 and 'alt="a line"' in html
    (pixels,) = [m for m in gallery._IMAGE.finditer(html) if m["kind"] == "pixels"]
    drawn = Image.open(io.BytesIO(base64.b64decode(pixels["data"])))
    assert drawn.size == (30, 20)


def test_questions_and_tasks_keep_their_answers_folded() -> None:
    from dpqlab.widgets import Exercise, Prediction

    asked = Prediction("1 + 1?", ["2", "3"], lambda: "2", "Count.")
    html = gallery_pictures.prediction_html(asked)
    assert "<li>3</li>" in html and "<details><summary>Reveal</summary>2. Count." in html
    task = gallery_pictures.exercise_html(Exercise("Do it.", lambda _v: None, "x < 1"))
    assert "Do it." in task and "<pre>x &lt; 1</pre>" in task


def test_a_png_has_few_colours_and_no_more_bytes_than_needed() -> None:
    assert len(png_bytes(picture(900, 600))) < 3000


@pytest.mark.slow
def test_a_notebook_is_executed_and_drawn(tmp_path: Path) -> None:
    pytest.importorskip("kaleido")
    pytest.importorskip("jupytext")
    source = tmp_path / "09_small.py"
    source.write_text(
        "# %% [markdown]\n# # Small\n\n# %%\nfrom dpqlab.widgets import CalibrationView\n\n"
        'CalibrationView("best-2bit")\n'
    )
    pictures = tmp_path / "docs"
    out = tmp_path / "out"
    assert gallery.main([str(source), "--out", str(out), "--pictures", str(pictures)]) == 0
    text = (out / "09_small.html").read_text()
    assert text.count("<img") == 2 and "best-2bit, recorded on" in text
    assert len(list((out / "pictures").iterdir())) == 2
    assert 10_000 < (pictures / "calibration.png").stat().st_size <= gallery.LARGEST_PICTURE


def test_links_between_notebooks_are_links_between_pages():
    html = gallery.markdown_html("Next: [`01_vq`](01_vq.ipynb), not [that](https://x.org/a.html).")
    assert 'href="01_vq.html"' in html
    assert 'href="https://x.org/a.html"' in html
