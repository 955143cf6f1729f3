from __future__ import annotations

import numpy as np
import pytest

from dpqlab.checkpoint.arrays import write_npz
from dpqlab.errors import CheckpointError
from dpqlab.evaluation.reference import Reference


def test_round_trip(reference, tmp_path):
    found = Reference.load(reference.save(tmp_path / "reference.npz"))
    assert found.floor == reference.floor
    assert found.halves == reference.halves
    assert (found.floor_precision, found.floor_recall) == (0.75, 0.5)
    assert found.real_features.dtype == np.float16
    np.testing.assert_array_equal(found.real_features, reference.real_features)
    for name in ("train", "test"):
        ours, theirs = getattr(found, name), getattr(reference, name)
        np.testing.assert_array_equal(ours.covariance, theirs.covariance)
        assert (ours.source, ours.count) == (theirs.source, theirs.count) == (name, 60)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test_feature_net": np.asarray("other")}, "different feature networks"),
        ({"real_features": np.zeros((9, 7), dtype=np.float16)}, "different feature networks"),
        ({"train_count": np.asarray(0)}, "no usable statistics"),
        ({"floor": np.zeros(4)}, "shape"),
        ({"extra": np.zeros(4)}, "unknown"),
    ],
)
def test_malformed_files_are_refused(reference, tmp_path, change, message):
    path = reference.save(tmp_path / "reference.npz")
    with np.load(path) as archive:
        arrays = dict(archive)
    with pytest.raises(CheckpointError, match=message):
        Reference.load(write_npz(path, arrays | change))
