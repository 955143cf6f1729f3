from __future__ import annotations

import numpy as np
import pytest
import torch

from dpqlab.errors import ShapeError
from dpqlab.viz.images import sheet


def test_rows_columns_gap_and_zoom() -> None:
    images = torch.arange(5, dtype=torch.uint8).reshape(5, 1, 1, 1).expand(5, 1, 2, 3)
    pixels = np.asarray(sheet(images, 3, gap=1))
    assert pixels.shape == (2 * 3 - 1, 3 * 4 - 1)
    assert pixels[0, 0] == 0
    assert pixels[0, 8] == 2
    assert pixels[3, 4] == 4
    assert pixels[2].min() == 255, "the gap is white"
    zoomed = np.asarray(sheet(images, 3, gap=1, zoom=4))
    assert np.array_equal(zoomed[::4, ::4], pixels)


def test_colour() -> None:
    assert sheet(torch.zeros(1, 3, 4, 4, dtype=torch.uint8), 1).mode == "RGB"


@pytest.mark.parametrize("shape", [(1, 28, 28), (2, 2, 4, 4)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match="expected"):
        sheet(torch.zeros(shape, dtype=torch.uint8), 2)
