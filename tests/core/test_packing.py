from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dpqlab.core import check_padding, pack, packed_size, packing, unpack
from dpqlab.errors import ConfigError, ShapeError


def bits_and_codes() -> st.SearchStrategy[tuple[int, list[int]]]:
    def codes(bits: int) -> st.SearchStrategy[tuple[int, list[int]]]:
        values = st.lists(st.integers(0, 2**bits - 1), max_size=40)
        return st.tuples(st.just(bits), values)

    return st.integers(1, 16).flatmap(codes)


def by_numpy(codes: list[int], bits: int) -> list[int]:
    stream = [code >> t & 1 for code in codes for t in range(bits)]
    return np.packbits(np.array(stream, np.uint8), bitorder="little").tolist()


@given(bits_and_codes())
def test_round_trip_and_stream_as_defined(case: tuple[int, list[int]]) -> None:
    bits, values = case
    packed = pack(torch.tensor(values, dtype=torch.int64), bits)
    assert packed.dtype == torch.uint8
    assert packed.numel() == packed_size(len(values), bits)
    assert packed.tolist() == by_numpy(values, bits)
    assert unpack(packed, bits, len(values)).tolist() == values
    assert check_padding(packed, bits, len(values))


@pytest.mark.parametrize("bits", [1, 5, 8, 13])
def test_chunks_join_seamlessly(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    codes = torch.randint(0, 2**bits, (1003,))
    whole = pack(codes, bits)
    monkeypatch.setattr(packing, "_OCTETS", 3)
    assert pack(codes, bits).equal(whole)
    assert unpack(whole, bits, 1003).equal(codes)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_any_integer_type(dtype: torch.dtype) -> None:
    codes = torch.tensor([0, 7, 100], dtype=dtype)
    assert unpack(pack(codes, 7), 7, 3).tolist() == [0, 7, 100]


def test_works_on_each_device(device: torch.device) -> None:
    codes = torch.randint(0, 2**11, (999,))
    packed = pack(codes.to(device), 11)
    assert packed.device.type == device.type
    assert packed.cpu().equal(pack(codes, 11))
    assert unpack(packed, 11, 999).cpu().equal(codes)


def test_padding_that_is_not_zero_is_found() -> None:
    packed = pack(torch.tensor([1, 2, 3]), 3)
    packed[-1] |= 128
    assert not check_padding(packed, 3, 3)


@pytest.mark.parametrize("bits", [0, 17])
def test_refuses_odd_widths(bits: int) -> None:
    with pytest.raises(ConfigError, match="1 to 16 bits"):
        pack(torch.tensor([0]), bits)


@pytest.mark.parametrize("code", [-1, 8])
def test_refuses_codes_that_do_not_fit(code: int) -> None:
    with pytest.raises(ConfigError, match=r"0\.\.7"):
        pack(torch.tensor([0, code]), 3)


def test_refuses_other_shapes_and_types() -> None:
    with pytest.raises(ShapeError, match="flatten"):
        pack(torch.zeros(2, 2, dtype=torch.int64), 3)
    with pytest.raises(ShapeError, match="integers"):
        pack(torch.zeros(2), 3)
    with pytest.raises(ShapeError, match="2 bytes"):
        unpack(torch.zeros(3, dtype=torch.uint8), 3, 4)
    with pytest.raises(ShapeError, match="uint8"):
        unpack(torch.zeros(2, dtype=torch.int16), 3, 4)
