from __future__ import annotations

import gzip

import numpy as np
import pytest

from dpqlab.errors import CheckpointError, ConfigError
from dpqlab.evaluation.datasets import dataset_of
from dpqlab.evaluation.fashion_mnist import CLASSES, DEFAULT_FOLDER


@pytest.mark.parametrize(("split", "count"), [("train", 80), ("test", 40)])
def test_reads_a_split(data_folder, split, count):
    images, labels = dataset_of("fashion-dit").read(data_folder, split)
    assert images.shape == (count, 1, 28, 28)
    assert images.dtype == np.uint8
    assert labels.dtype == np.int64
    np.testing.assert_array_equal(labels, np.arange(count) % len(CLASSES))
    assert (images[np.arange(count), 0, 5, 2 * labels + 4] == 255).all()


def test_a_missing_file_says_how_to_get_it(tmp_path):
    with pytest.raises(ConfigError, match="dataset-fashion-mnist") as caught:
        dataset_of("fashion-dit").read(tmp_path, "train")
    assert str(DEFAULT_FOLDER) in str(caught.value)


def test_an_unknown_split_is_refused(data_folder):
    with pytest.raises(ConfigError, match="'valid'"):
        dataset_of("fashion-dit").read(data_folder, "valid")


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((2, 28, 27)), np.zeros(2), "28, 27"),
        (np.zeros((2, 28, 28)), np.zeros(3), "2 test images but 3 labels"),
        (np.zeros((2, 28, 28)), np.full(2, 10), "reach 10"),
    ],
)
def test_files_that_do_not_belong_together_are_refused(tmp_path, images, labels, message):
    for name, items in (("images-idx3", images), ("labels-idx1", labels)):
        shape = b"".join(side.to_bytes(4, "big") for side in items.shape)
        header = bytes((0, 0, 8, items.ndim)) + shape
        body = items.astype(np.uint8).tobytes()
        (tmp_path / f"t10k-{name}-ubyte.gz").write_bytes(gzip.compress(header + body))
    with pytest.raises(CheckpointError, match=message):
        dataset_of("fashion-dit").read(tmp_path, "test")
