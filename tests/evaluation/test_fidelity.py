from __future__ import annotations

import numpy as np
import pytest

from dpqlab.errors import ShapeError
from dpqlab.evaluation.fidelity import MOST_DB, agreement, feature_cosine, psnr


def test_psnr_of_a_known_error():
    dark = np.zeros((2, 1, 4, 4), dtype=np.uint8)
    light = np.stack([np.full((1, 4, 4), 255), np.full((1, 4, 4), 51)]).astype(np.uint8)
    np.testing.assert_allclose(psnr(light, dark), [0.0, -20 * np.log10(0.2)], atol=1e-12)
    np.testing.assert_allclose(psnr(light / 255.0, dark / 255.0), psnr(light, dark))


def test_psnr_of_equal_images_is_finite_and_above_all_others():
    images = np.random.default_rng(0).integers(0, 256, (3, 1, 28, 28), dtype=np.uint8)
    assert (psnr(images, images) == MOST_DB).all()
    nearly = images.copy()
    nearly[:, 0, 0, 0] ^= 1
    assert (psnr(images, nearly) < 78).all()


def test_cosine():
    a = np.array([[1.0, 0.0], [2.0, 2.0], [0.0, 0.0], [0.0, 0.0], [1.0, 2.0]], dtype=np.float16)
    b = np.array([[0.0, 3.0], [1.0, 1.0], [0.0, 0.0], [1.0, 0.0], [-1.0, -2.0]], dtype=np.float16)
    np.testing.assert_allclose(feature_cosine(a, b), [0.0, 1.0, 1.0, 0.0, -1.0], atol=1e-12)


def test_agreement():
    assert agreement(np.array([1, 2, 3, 4]), np.array([1, 2, 3, 0])) == 0.75


@pytest.mark.parametrize(
    ("function", "a", "b"),
    [
        (psnr, (2, 1, 4, 4), (2, 1, 4, 5)),
        (psnr, (4, 4), (4, 4)),
        (feature_cosine, (2, 3), (2, 4)),
        (feature_cosine, (3,), (3,)),
        (agreement, (3,), (4,)),
        (agreement, (0,), (0,)),
    ],
)
def test_other_shapes_are_refused(function, a, b):
    with pytest.raises(ShapeError, match="must both be"):
        function(np.zeros(a), np.zeros(b))
