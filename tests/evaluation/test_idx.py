from __future__ import annotations

import gzip

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpqlab.errors import CheckpointError, DPQError
from dpqlab.evaluation.fashion_mnist import LAYOUT
from dpqlab.evaluation.idx import read_idx

LABELS = bytes((0, 0, 8, 1, 0, 0, 0, 3, 5, 6, 7))
DAMAGED = {
    "not compressed": (b"not gzip", "gzip"),
    "cut off": (gzip.compress(LABELS)[:-9], "gzip"),
    "empty": (gzip.compress(b""), "starts with"),
    "a part of the header": (gzip.compress(LABELS[:6]), "starts with"),
    "another type": (gzip.compress(b"\0\0\x0d\1" + LABELS[4:]), "00 00 0d 01"),
    "another rank": (gzip.compress(b"\0\0\x08\3" + LABELS[4:]), "expected 00 00 08 01"),
    "an item less": (gzip.compress(LABELS[:-1]), "holds 2"),
    "an item more": (gzip.compress(LABELS + b"\0"), "holds more"),
    "far too many": (gzip.compress(LABELS[:4] + b"\xff" * 4), "announces shape"),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_files_are_refused(tmp_path, damage):
    content, message = DAMAGED[damage]
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
