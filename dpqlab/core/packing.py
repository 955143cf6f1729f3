"""Codes as a dense stream of bits.

Code ``i`` of ``bits`` bits fills bits ``i * bits`` to ``(i + 1) * bits - 1`` of the stream, and bit
``t`` of the stream is bit ``t % 8`` (least significant first) of byte ``t // 8``. Eight codes fill
``bits`` whole bytes, so the stream is a run of such octets; the last one is cut after the byte that
holds the last code, and bits beyond that code are zero::

    bits = 3   byte 0            byte 1            byte 2
               22 111 000        5 444 333 2       777 666 55     (digit = number of the code)
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from dpqlab.errors import ConfigError, ShapeError

MAX_BITS = 16
_OCTETS = 1 << 16  # per chunk: 512 k codes, some MB of scratch memory


def code_bits(k: int) -> int:
    """Return the bits of a code into ``k`` codewords: ``ceil(log2 k)``, at least 1."""
    return max(1, (k - 1).bit_length())


def packed_size(n: int, bits: int) -> int:
    """Return the bytes that ``n`` codes of ``bits`` bits take: ``ceil(n * bits / 8)``."""
    _check_bits(bits)
    return -(-n * bits // 8)


def pack(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Pack codes into a bit stream.

    Parameters
    ----------
    codes
        Integer tensor of shape (n,), each value in ``0 .. 2**bits - 1``.
    bits
        Bits of one code, 1 to 16.

    Returns
    -------
    torch.Tensor
        uint8 stream of shape (ceil(n * bits / 8),) on the device of ``codes``.

    Raises
    ------
    ConfigError
        If ``bits`` is out of range or a code does not fit.

    Examples
    --------
    >>> pack(torch.tensor([1, 2, 3]), 4).tolist()
    [33, 3]
    """
    _check_bits(bits)
    _check_flat(codes, "codes")
    if codes.is_floating_point() or codes.is_complex():
        raise ShapeError(f"codes must be integers: got {codes.dtype}")
    n = codes.numel()
    stream = torch.empty(packed_size(n, bits), dtype=torch.uint8, device=codes.device)
    for start in range(0, n, 8 * _OCTETS):
        chunk = codes[start : start + 8 * _OCTETS].to(torch.int64)
        low, high = (int(v) for v in torch.aminmax(chunk))
        if low < 0 or high >> bits:
            raise ConfigError(
                f"codes must lie in 0..{(1 << bits) - 1} ({bits} bits): got {low}..{high}"
            )
        octets = _octets(chunk.to(torch.int32), 8)
        out = octets.new_zeros(octets.shape[0], bits)
        for i, j, shift in _overlaps(bits):
            out[:, j] |= _shifted(octets[:, i], shift)
        first = start // 8 * bits
        packed = (out & 255).to(torch.uint8).reshape(-1)
        stream[first : first + packed.numel()] = packed[: stream.numel() - first]
    return stream


def unpack(packed: torch.Tensor, bits: int, n: int) -> torch.Tensor:
    """Read ``n`` codes of ``bits`` bits back from a stream made by :func:`pack`.

    Returns
    -------
    torch.Tensor
        int64 codes of shape (n,).

    Raises
    ------
    ShapeError
        If the stream is not uint8 or does not have exactly ``packed_size(n, bits)`` bytes.
    """
    _check_stream(packed, bits, n)
    codes = torch.empty(n, dtype=torch.int64, device=packed.device)
    for start in range(0, n, 8 * _OCTETS):
        first = start // 8 * bits
        chunk = packed[first : first + _OCTETS * bits].to(torch.int32)
        octets = _octets(chunk, bits)
        out = octets.new_zeros(octets.shape[0], 8)
        for i, j, shift in _overlaps(bits):
            out[:, i] |= _shifted(octets[:, j], -shift)
        flat = (out & ((1 << bits) - 1)).reshape(-1)
        codes[start : start + flat.numel()] = flat[: n - start]
    return codes


def check_padding(packed: torch.Tensor, bits: int, n: int) -> bool:
    """Return whether the bits after the last code are all zero, as :func:`pack` leaves them."""
    _check_stream(packed, bits, n)
    used = n * bits % 8
    return used == 0 or int(packed[-1]) >> used == 0


def _overlaps(bits: int) -> Iterator[tuple[int, int, int]]:
    """Yield (code i, byte j, left shift) wherever code i of an octet has bits in byte j."""
    for i in range(8):
        for j in range(i * bits // 8, ((i + 1) * bits - 1) // 8 + 1):
            yield i, j, i * bits - 8 * j


def _shifted(values: torch.Tensor, left: int) -> torch.Tensor:
    return values << left if left >= 0 else values >> -left


def _octets(values: torch.Tensor, width: int) -> torch.Tensor:
    """Reshape (n,) to (ceil(n / width), width), zeros behind the end."""
    missing = -values.numel() % width
    return torch.nn.functional.pad(values, (0, missing)).reshape(-1, width)


def _check_bits(bits: int) -> None:
    if not 1 <= bits <= MAX_BITS:
        raise ConfigError(f"a code has 1 to {MAX_BITS} bits: got {bits}")


def _check_flat(tensor: torch.Tensor, what: str) -> None:
    if tensor.ndim != 1:
        raise ShapeError(
            f"{what} must have one dimension: got shape {tuple(tensor.shape)}; flatten first"
        )


def _check_stream(packed: torch.Tensor, bits: int, n: int) -> None:
    _check_flat(packed, "packed codes")
    if packed.dtype != torch.uint8 or packed.numel() != packed_size(n, bits):
        raise ShapeError(
            f"{n} codes of {bits} bits are {packed_size(n, bits)} bytes of uint8: "
            f"got {packed.numel()} of {packed.dtype}"
        )
