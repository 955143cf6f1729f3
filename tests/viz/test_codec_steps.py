from __future__ import annotations

import json

import numpy as np
import pytest

from dpqlab.core import CodebookCodec
from dpqlab.errors import ConfigError
from dpqlab.studies.layer_coding import code_layer
from dpqlab.studies.layer_weights import LayerWeights
from dpqlab.viz.codec_steps import STEP_NAMES, STEPS, codec_steps, row_window, span_of
from dpqlab.viz.theme import BLUE, ORANGE


@pytest.fixture(scope="module")
def coding():
    layers = LayerWeights.open("fashion-dit")
    return code_layer(layers, 3, "attn1.to_q", CodebookCodec(d=4, k=16, iterations=2))


def named(figure, name):
    return next(trace for trace in figure.data if trace.name == name)


@pytest.mark.parametrize("step", STEPS)
def test_the_row_is_the_matrix_and_the_sub_vector_stands_out(coding, step):
    figure = codec_steps(coding, row=7, position=14, step=step)
    bars = named(figure, "weight")
    assert list(bars.x) == list(range(48, 96))
    np.testing.assert_array_equal(bars.y, coding.weight[7, 48:96].numpy())
    blue = [x for x, colour in zip(bars.x, bars.marker.color, strict=True) if colour == BLUE]
    assert blue == [56, 57, 58, 59]
    assert figure.layout.title.text == f"{STEP_NAMES[step]} · PQ d=4 k=16"
    assert figure.layout.paper_bgcolor == figure.layout.plot_bgcolor == "rgba(0,0,0,0)"
    for axis in ("xaxis", "yaxis", "xaxis2", "yaxis2"):
        assert figure.layout[axis].title.text
    assert len(json.dumps(json.loads(figure.to_json()))) < 60_000


def test_each_step_shows_what_it_says(coding):
    values, mine = coding.subvector(7, 14).numpy(), coding.replacement(7, 14).numpy()
    code = int(coding.codes[7, 14])
    split = codec_steps(coding, row=7, position=14)
    np.testing.assert_array_equal(named(split, "weights").y, values)

    nearest = codec_steps(coding, row=7, position=14, step="nearest")
    words = np.array(named(nearest, "codewords").y).reshape(16, 5)[:, :4]
    np.testing.assert_allclose(words, coding.codebook(14).numpy())
    np.testing.assert_array_equal(named(nearest, "nearest").y, words[code])

    distances = codec_steps(coding, row=7, position=14, step="code")
    assert list(named(distances, "nearest").x) == [code]
    assert named(distances, "nearest").y[0] == min(named(distances, "codewords").y)
    assert f"code {code} = <b>{code:04b}</b>: 4 bits" in str(distances.layout.annotations)

    rebuilt = codec_steps(coding, row=7, position=14, step="rebuild")
    np.testing.assert_allclose(named(rebuilt, "error").y, mine - values, atol=1e-7)
    marks = next(t for t in rebuilt.data if t.name == "rebuilt" and len(t.x) == 48)
    np.testing.assert_array_equal(marks.y, coding.rebuilt[7, 48:96].numpy())
    assert marks.marker.color == ORANGE


def test_nonsense_is_refused(coding):
    with pytest.raises(ConfigError, match="no step 'fly'"):
        codec_steps(coding, step="fly")
    with pytest.raises(ConfigError, match="no sub-vector 96"):
        codec_steps(coding, position=96)


def test_pages_of_the_row_stand_still(coding):
    assert row_window(coding, 0) == row_window(coding, 11) == range(12)
    assert row_window(coding, 95) == range(84, 96)
    assert 0.1 < span_of(coding) <= float(coding.weight.abs().max())
