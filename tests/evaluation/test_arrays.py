from __future__ import annotations

import contextlib
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dpqlab.errors import CheckpointError
from dpqlab.evaluation.arrays import ArraySpec, read_npz, text, write_npz

SPECS = {
    "a": ArraySpec(kind="f", shape=(None, 3)),
    "n": ArraySpec(kind="iu"),
    "s": ArraySpec(kind="U", optional=True),
}
GOOD = {"a": np.arange(6.0).reshape(2, 3), "n": 7}


class Exploding:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (pytest.fail, ("an array was unpickled",))


def write_raw(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def npy(header: str, body: bytes = b"") -> bytes:
    padded = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded + body


@settings(max_examples=20, deadline=None)
@given(
    a=hnp.arrays(
        st.sampled_from([np.float16, np.float32, np.float64]),
        st.tuples(st.integers(0, 4), st.just(3)),
        elements=st.floats(-100, 100, width=16),
    ),
    n=st.integers(-(2**63), 2**63 - 1),
    s=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
)
def test_round_trip(tmp_path_factory, a, n, s):
    path = write_npz(tmp_path_factory.mktemp("t") / "new" / "x.npz", {"a": a, "n": n, "s": s})
    back = read_npz(path, SPECS)
    assert back["a"].dtype == a.dtype
    np.testing.assert_array_equal(back["a"], a)
    assert int(back["n"]) == n
    assert text(back["s"]) == s


def test_equal_arrays_make_equal_files_that_numpy_reads(tmp_path):
    first, second = (write_npz(tmp_path / name, GOOD) for name in ("1.npz", "2.npz"))
    assert first.read_bytes() == second.read_bytes()
    with np.load(first, allow_pickle=False) as archive:
        np.testing.assert_array_equal(archive["a"], GOOD["a"])


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = write_npz(tmp_path / "x.npz", GOOD)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="Object arrays"):
        write_npz(path, GOOD | {"n": np.array([None])})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a": None}, "lacks the arrays"),
        ({"z": np.zeros(1)}, "unknown arrays"),
        ({"a": np.zeros((2, 3), dtype=np.int64)}, "dtype int64"),
        ({"a": np.zeros((2, 4))}, r"shape \(2, 4\)"),
        ({"n": np.zeros(1, dtype=np.int64)}, r"shape \(1,\)"),
        ({"a": np.full((1, 3), np.nan)}, "NaN"),
        ({"a": np.full((1, 3), np.inf)}, "NaN or an infinity"),
    ],
)
def test_other_contents_are_refused(tmp_path, change, message):
    arrays = {key: value for key, value in (GOOD | change).items() if value is not None}
    with pytest.raises(CheckpointError, match=message):
        read_npz(write_npz(tmp_path / "x.npz", arrays), SPECS)


def test_pickles_are_refused_unopened(tmp_path):
    buffer = io.BytesIO()
    np.save(buffer, np.array(Exploding(), dtype=object), allow_pickle=True)
    path = write_raw(tmp_path / "x.npz", {"a.npy": buffer.getvalue(), "n.npy": b""})
    with pytest.raises(CheckpointError, match="dtype object"):
        read_npz(path, SPECS)


def test_absurd_sizes_are_refused_from_the_header(tmp_path):
    header = npy("{'descr': '<f8', 'fortran_order': False, 'shape': (10000000000, 3)}")
    with pytest.raises(CheckpointError, match="limit"):
        read_npz(write_raw(tmp_path / "x.npz", {"a.npy": header, "n.npy": b""}), SPECS)


def test_what_is_no_npz_is_refused(tmp_path):
    (tmp_path / "text").write_text("hello")
    for path in (tmp_path / "text", tmp_path / "missing", tmp_path):
        with pytest.raises(CheckpointError, match="npz"):
            read_npz(path, SPECS)
    with pytest.raises(CheckpointError, match="version"):
        read_npz(write_raw(tmp_path / "x", {"a.npy": b"\x93NUMPY\x03\x00", "n.npy": b""}), SPECS)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damage_loads_or_is_a_checkpoint_error(tmp_path_factory, data):
    path = write_npz(tmp_path_factory.mktemp("t") / "x.npz", GOOD | {"s": "words"})
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(len(content) // 2, len(content)))])
    with contextlib.suppress(CheckpointError):
        read_npz(path, SPECS)
