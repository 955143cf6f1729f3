"""Pictures pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest

from dpqlab.errors import ConfigError, ShapeError
from dpqlab.viz.colours import diverging, sequential
from dpqlab.widgets import Pixels


def test_an_image_crosses_byte_by_byte():
    image = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    picture = Pixels(image[:, ::-1], label="a ramp")  # not contiguous
    assert picture.shape == [2, 3, 3]
    assert picture.pixels == image[:, ::-1].tobytes()
    picture.show(image[..., 0])
    assert picture.shape == [2, 3, 1]
    assert picture.pixels == image[..., 0].tobytes()


def test_values_take_the_colours_of_their_span():
    picture = Pixels()
    picture.show_values(np.array([[-2.0, -1.0, 0.0, 1.0, 9.0]]), (-1, 1), diverging())
    assert list(picture.pixels) == [0, 0, 128, 255, 255]
    assert picture.span == [-1, 1]
    assert picture.palette == diverging().tobytes()
    picture.show(np.zeros((1, 1), np.uint8))
    assert (picture.span, picture.palette) == ([], b"")


def test_palettes_run_from_end_to_end():
    blue, white, red = (diverging()[i].astype(int) for i in (0, 128, 255))
    assert blue[2] > blue[0] + 50
    assert red[0] > red[2] + 50
    assert white.min() > 230
    lightness = sequential().astype(float) @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(lightness) > -0.5).all()


@pytest.mark.parametrize(
    "image", [np.zeros((2, 2)), np.zeros((2, 2, 2), np.uint8), np.zeros((0, 2), np.uint8)]
)
def test_what_is_no_picture_is_refused(image):
    with pytest.raises(ShapeError, match="uint8"):
        Pixels(image)


def test_values_need_a_scale():
    with pytest.raises(ShapeError, match="palette"):
        Pixels().show_values(np.zeros((2, 2)), (0, 1), diverging()[:3])
    with pytest.raises(ConfigError, match="rise"):
        Pixels().show_values(np.zeros((2, 2)), (1, 1), diverging())


def test_clicks_and_frames():
    picture = Pixels()
    clicks = []
    picture.on_click(clicks.append)
    picture.click = {"row": 3, "column": 1, "at": 5}
    assert clicks == [{"row": 3, "column": 1, "at": 5}]
    picture.frame((0, 4, 1, 4), np.array([2, 0, 1, 4]))
    assert picture.outline == [[0, 4, 1, 4], [2, 0, 1, 4]]
    picture.frame()
    assert picture.outline == []
