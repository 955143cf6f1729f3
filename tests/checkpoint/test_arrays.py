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

from dpqlab.checkpoint.arrays import (
    ArraySpec,
    names_in,
    read_described,
    read_npz,
    text,
    write_described,
    write_npz,
)
from dpqlab.checkpoint.records import FileKind
from dpqlab.errors import CheckpointError

KIND = FileKind(what="an npz of this test", maker="the test", limit=1_000_000)

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
    back = read_npz(path, SPECS, kind=KIND)
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
        read_npz(write_npz(tmp_path / "x.npz", arrays), SPECS, kind=KIND)


def test_pickles_are_refused_unopened(tmp_path):
    buffer = io.BytesIO()
    np.save(buffer, np.array(Exploding(), dtype=object), allow_pickle=True)
    path = write_raw(tmp_path / "x.npz", {"a.npy": buffer.getvalue(), "n.npy": b""})
    with pytest.raises(CheckpointError, match="dtype object"):
        read_npz(path, SPECS, kind=KIND)


def test_absurd_sizes_are_refused_from_the_header(tmp_path):
    header = npy("{'descr': '<f8', 'fortran_order': False, 'shape': (10000000000, 3)}")
    with pytest.raises(CheckpointError, match="limit"):
        read_npz(write_raw(tmp_path / "x.npz", {"a.npy": header, "n.npy": b""}), SPECS, kind=KIND)


HEADERS = {
    "cut off": "{'descr': '<f8', 'fortran_order': False, 'shape': (",
    "no Python": "a b c",
    "too deep": "(" * 100,
    "a size below 0": "{'descr': '<f8', 'fortran_order': False, 'shape': (-1, 3)}",
    "no type": "{'descr': 'f99', 'fortran_order': False, 'shape': (1, 3)}",
    "more than there is": "{'descr': '<f8', 'fortran_order': False, 'shape': (9, 3)}",
    "less than there is": "{'descr': '<f8', 'fortran_order': False, 'shape': (0, 3)}",
}


@pytest.mark.parametrize("name", HEADERS)
def test_other_headers_are_refused(tmp_path, name):
    path = write_raw(tmp_path / "x.npz", {"a.npy": npy(HEADERS[name], bytes(24)), "n.npy": b""})
    with pytest.raises(CheckpointError, match=r"x\.npz cannot be read as an npz of this test: .*a"):
        read_npz(path, SPECS, kind=KIND)


def test_a_header_that_announces_more_than_the_file_holds_takes_no_memory(tmp_path, monkeypatch):
    header = npy("{'descr': '<f8', 'fortran_order': False, 'shape': (40000000, 3)}", bytes(24))
    path = write_raw(tmp_path / "x.npz", {"a.npy": header, "n.npy": b""})
    monkeypatch.setattr(np.lib.format, "read_array", lambda *_, **__: pytest.fail("it was read"))
    with pytest.raises(CheckpointError, match=r"announces 960000000 bytes .* holds 24"):
        read_npz(path, SPECS, kind=KIND)


def test_text_that_is_none_is_refused(tmp_path):
    header = npy("{'descr': '<U1', 'fortran_order': False, 'shape': ()}", b"\xff\xff\xff\x7f")
    path = write_npz(tmp_path / "x.npz", GOOD)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("s.npy", header)
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_npz(path, SPECS, kind=KIND)


def test_one_type_may_be_asked_for(tmp_path):
    path = write_npz(tmp_path / "x.npz", {"a": np.zeros((1, 3))})
    wanted = {"a": ArraySpec(kind="f", dtype="float32", shape=(1, 3))}
    with pytest.raises(CheckpointError, match=r"dtype float64; expected float32"):
        read_npz(path, wanted, kind=KIND)
    write_npz(path, {"a": np.zeros((1, 3), np.float32)})
    assert read_npz(path, wanted, kind=KIND)["a"].dtype == np.float32


def test_arrays_without_a_spec_of_their_own(tmp_path):
    path = write_npz(tmp_path / "x.npz", GOOD | {"b": np.ones(2), "c": np.ones(3)})
    found = read_npz(path, SPECS, kind=KIND, others=ArraySpec(kind="f", shape=(None,)))
    assert {name: value.shape for name, value in found.items()} == {
        "a": (2, 3),
        "n": (),
        "b": (2,),
        "c": (3,),
    }
    with pytest.raises(CheckpointError, match=r"b\.npy has shape \(2,\)"):
        read_npz(path, SPECS, kind=KIND, others=ArraySpec(kind="f"))


def test_archives_of_another_make_are_refused(tmp_path):
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a.npy", b"")
    with pytest.raises(CheckpointError, match="packed in a way"):
        read_npz(path, SPECS, kind=KIND)
    with pytest.raises(CheckpointError, match="two arrays of one name"):
        read_npz(write_raw(path, {"a.npy": b"", "a": b""}), SPECS, kind=KIND)


def test_what_unpacks_to_too_much_is_refused_unread(tmp_path):
    path = write_npz(tmp_path / "x.npz", GOOD | {"a": np.zeros((50_000, 3))})
    assert path.stat().st_size < 10_000
    with pytest.raises(CheckpointError, match=r"unpacks to 12.* no more than 1000000 bytes"):
        read_npz(path, SPECS, kind=KIND)


def test_a_description_travels_with_the_arrays(tmp_path):
    about = {"name": "x", "seed": 2**64 - 1, "steps": [1, 2.5, None]}
    path = write_described(tmp_path / "x.npz", about, GOOD)
    found, arrays = read_described(path, SPECS, kind=KIND)
    assert found == about
    assert arrays.keys() == GOOD.keys() == names_in(path) - {"about"}
    with pytest.raises(ValueError, match="JSON compliant"):
        write_described(path, {"error": float("nan")}, GOOD)


@pytest.mark.parametrize(
    ("description", "message"),
    [
        (b"[1]", "its description is a list: expected an object"),
        (b"{", "its description is not valid JSON"),
        (b'{"a": NaN}', "NaN is not JSON"),
        (b'{"a": 1, "a": 2}', "same key twice"),
        (None, "lacks the arrays"),
    ],
)
def test_other_descriptions_are_refused(tmp_path, description, message):
    about = {} if description is None else {"about": np.frombuffer(description, np.uint8)}
    path = write_npz(tmp_path / "x.npz", GOOD | about)
    with pytest.raises(CheckpointError, match=rf"x\.npz cannot be read as .*{message}.*the test"):
        read_described(path, SPECS, kind=KIND)


def test_names_are_those_of_the_arrays_and_none_for_another_file(tmp_path):
    path = write_npz(tmp_path / "x.npz", GOOD)
    assert names_in(path) == {"a", "n"}
    path.write_bytes(b"no archive")
    assert names_in(path) == names_in(tmp_path / "none") == names_in(tmp_path) == frozenset()


def test_what_is_no_npz_is_refused(tmp_path):
    (tmp_path / "text").write_text("hello")
    for path in (tmp_path / "text", tmp_path / "missing", tmp_path):
        with pytest.raises(CheckpointError, match="npz"):
            read_npz(path, SPECS, kind=KIND)
    path = write_npz(tmp_path / "behind.npz", GOOD)
    path.write_bytes(b"\x93NUMPY" + path.read_bytes())
    with pytest.raises(CheckpointError, match="it is no npz file"):
        read_npz(path, SPECS, kind=KIND)
    with pytest.raises(CheckpointError, match="version"):
        read_npz(
            write_raw(tmp_path / "x", {"a.npy": b"\x93NUMPY\x03\x00", "n.npy": b""}),
            SPECS,
            kind=KIND,
        )


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damage_loads_or_is_a_checkpoint_error(tmp_path_factory, data):
    path = write_npz(tmp_path_factory.mktemp("t") / "x.npz", GOOD | {"s": "words"})
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(len(content) // 2, len(content)))])
    with contextlib.suppress(CheckpointError):
        read_npz(path, SPECS, kind=KIND)
