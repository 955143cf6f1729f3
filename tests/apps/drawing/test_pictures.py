from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from dpqlab import __version__
from dpqlab.errors import ConfigError, ShapeError
from dpqlab_app.drawing.frames import Frame, VersionFacts, VersionFrame
from dpqlab_app.drawing.pictures import (
    GAP,
    MIDDLE,
    before_after,
    difference,
    grid,
    picture,
    png_bytes,
    read_png_settings,
    side_by_side,
    zoom_for,
)
from dpqlab_app.drawing.settings import DrawSettings

SETTINGS = DrawSettings(model="fashion-dit", versions=("best-1bit",), labels=(0, 3), seed=9)
FACTS = VersionFacts(
    true_bits=1.09,
    disk_bytes=1,
    weight_bytes=1,
    modulation_bytes=0,
    backend="numba",
    device="cpu",
    dtype="float32",
)


def noise(channels: int, count: int = 2, side: int = 5, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, side, side, channels), dtype=np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_row_for_each_version_an_image_for_each_column(channels: int) -> None:
    rows = [noise(channels, seed=0), noise(channels, seed=1)]
    frame = Frame(
        settings=SETTINGS,
        index=0,
        total=2,
        versions=tuple(
            VersionFrame(key=key, title=key, images=images, ms_per_step=1.0, facts=FACTS)
            for key, images in zip(("full", "best-1bit"), rows, strict=True)
        ),
        seconds=0.0,
        remaining=1.0,
    )
    assert not frame.done
    zoom = 3
    made = side_by_side(frame, zoom=zoom)
    assert made.mode == ("L" if channels == 1 else "RGB")
    array = np.asarray(made)[::zoom, ::zoom].reshape(12, 12, channels)
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            there = array[i * 7 : i * 7 + 5, j * 7 : j * 7 + 5]
            np.testing.assert_array_equal(there, image)
    assert (array[5 : 5 + GAP] == MIDDLE).all()
    assert (array[:, 5 : 5 + GAP] == MIDDLE).all()


def test_enlarging_keeps_pixels_square_and_sharp() -> None:
    image = noise(3)[0]
    large = np.asarray(picture(image, zoom=4))
    np.testing.assert_array_equal(large, image.repeat(4, 0).repeat(4, 1))
    assert [zoom_for(28, 256), zoom_for(64, 256), zoom_for(512, 256)] == [9, 4, 1]


def test_before_and_after_are_of_one_size() -> None:
    before, after = before_after(noise(1), noise(1, seed=1), zoom=2)
    assert before.size == after.size == (24, 10)
    np.testing.assert_array_equal(np.asarray(before)[::2, :10:2], noise(1)[0, ..., 0])


@given(a=arrays(np.uint8, (2, 4, 4, 3)), b=arrays(np.uint8, (2, 4, 4, 3)))
def test_differences_are_about_grey_and_as_large_as_the_gain_says(
    a: np.ndarray, b: np.ndarray
) -> None:
    shown, gain = difference(a, b, gain=2)
    assert gain == 2
    expected = np.clip(128 + 2 * (b.astype(int) - a.astype(int)), 0, 255)
    np.testing.assert_array_equal(shown, expected)
    assert (shown[a == b] == MIDDLE).all()
    assert (difference(a, a)[0] == MIDDLE).all()


@pytest.mark.parametrize(("change", "gain"), [(0, 16), (5, 16), (10, 8), (40, 2), (200, 1)])
def test_the_gain_is_the_largest_that_clips_next_to_nothing(change: int, gain: int) -> None:
    a = np.zeros((1, 20, 20, 1), np.uint8)
    assert difference(a, a + np.uint8(change))[1] == gain
    rare = a.copy()
    rare[0, 0, :4] = 255  # one value in a hundred
    assert difference(a, np.maximum(rare, change).astype(np.uint8))[1] == gain


def test_a_fraction_is_a_gain_too_and_nonsense_is_not() -> None:
    a = noise(1)
    assert difference(a, a, gain=0.5)[1] == 0.5
    for gain in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="positive"):
            difference(a, a, gain=gain)


@pytest.mark.parametrize(
    "other", [noise(3), noise(1, count=3), noise(1)[0], noise(1).astype(np.float32), noise(2)]
)
def test_images_that_do_not_match_are_refused(other: np.ndarray) -> None:
    with pytest.raises(ShapeError):
        difference(noise(1), other)
    with pytest.raises(ShapeError):
        before_after(noise(1), other)
    with pytest.raises(ShapeError):
        grid([noise(1), other])
    with pytest.raises(ShapeError):
        grid([])


@given(text=st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=50))
def test_a_png_tells_what_it_was_made_of(text: str) -> None:
    made = grid([noise(3)])
    data = png_bytes(made, SETTINGS, {"version": text})
    told = read_png_settings(data)
    assert told == {
        "software": f"dpqlab {__version__}",
        "settings": SETTINGS.to_query(),
        "model": "fashion-dit",
        "version": text,
    }
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))), np.asarray(made))


def test_other_pictures_tell_nothing() -> None:
    stream = io.BytesIO()
    picture(noise(1)[0]).save(stream, format="PNG")
    with pytest.raises(ConfigError, match="no settings"):
        read_png_settings(stream.getvalue())
    whole = png_bytes(grid([noise(3)]), SETTINGS)
    jpeg = io.BytesIO()
    grid([noise(3)]).save(jpeg, format="JPEG")
    for data in (b"", b"\x89PNG\r\n\x1a\n", b"nothing", whole[:60], jpeg.getvalue()):
        with pytest.raises(ConfigError, match="no PNG"):
            read_png_settings(data)
