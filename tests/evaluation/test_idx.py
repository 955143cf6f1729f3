from __future__ import annotations

import gzip

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpqlab.errors import CheckpointError, DPQError
from dpqlab.evaluation.fashion_mnist import LAYOUT
from dpqlab.evaluation.idx import read_idx

LABELS = bytes((0, 0, 8, 1, 0, 0, 0, 3, 5, 6, 7))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not gzip", "gzip"),
        (gzip.compress(LABELS)[:-9], "gzip"),
        (gzip.compress(b""), "starts with"),
        (gzip.compress(LABELS[:6]), "starts with"),
        (gzip.compress(b"\0\0\x0d\1" + LABELS[4:]), "00 00 0d 01"),
        (gzip.compress(b"\0\0\x08\3" + LABELS[4:]), "expected 00 00 08 01"),
        (gzip.compress(LABELS[:-1]), "holds 2"),
        (gzip.compress(LABELS + b"\0"), "holds more"),
        (gzip.compress(LABELS[:4] + b"\xff" * 4), "announces shape"),
    ],
)
def test_damaged_files_are_refused(tmp_path, content, message):
    path = tmp_path / "labels.gz"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read_idx(path, limits=(1000,), layout=LAYOUT)


@settings(max_examples=60, deadline=None)
@given(body=st.binary(max_size=40), prefix=st.booleans(), dimensions=st.integers(1, 3))
def test_any_bytes_read_as_announced_or_are_refused(tmp_path_factory, body, prefix, dimensions):
    path = tmp_path_factory.mktemp("t") / "x.gz"
    path.write_bytes(gzip.compress((bytes((0, 0, 8, dimensions)) if prefix else b"") + body))
    try:
        items = read_idx(path, limits=(1 << 20,) * dimensions, layout=LAYOUT)
    except DPQError:
        return
    assert items.tobytes() == body[4 * dimensions :]
