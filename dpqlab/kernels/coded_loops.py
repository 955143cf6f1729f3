"""Loops over codes, compiled by numba: unpack, decode, look up. Importing this module needs numba.

``axes`` and ``lanes`` are tuples of zeros, as in :mod:`dpqlab.kernels.vectors`; without axes, a
codeword is read by an ordinary loop. All loops release the GIL and none starts threads.
"""

from __future__ import annotations

import numpy as np

from dpqlab.kernels.jit import compiled
from dpqlab.kernels.vectors import dot, eight_bytes, look_up, octet, put

Axes = tuple[int, ...]


@compiled()
def unpack(
    stream: np.ndarray,
    bits: int,
    bit: int,
    size: np.ndarray,
    first: np.ndarray,
    g: int,
    count: int,
    index: np.ndarray,
) -> None:
    """Set ``index[j] = first[g + j] + min(code, size[g + j] - 1)`` for ``count`` codes.

    The codes lie in the bytes ``stream``, at least eight, from bit ``bit``.
    """
    last, j = stream.shape[0] - 8, 0
    if bits <= 14:  # four codes, begun anywhere in a byte, fit into 64 bits
        at, half = bit >> 3, bits >> 1
        shift, more, width = np.uint64(bit & 7), np.uint64(4 * (bits & 1)), np.uint64(bits)
        while j + 8 <= count and at + half <= last:
            low, high = eight_bytes(stream, at), eight_bytes(stream, at + half)
            octet(low, high, shift, more, width, size, first, g + j, index, j)
            at += bits
            j += 8
    mask = (1 << bits) - 1
    while j < count:
        begin = bit + j * bits
        at = min(begin >> 3, last)
        code = np.int64(eight_bytes(stream, at) >> np.uint64(begin - 8 * at)) & mask
        index[j] = first[g + j] + min(code, size[g + j] - 1)
        j += 1


@compiled()
def decode_rows(
    stream: np.ndarray,
    bits: int,
    size: np.ndarray,
    first: np.ndarray,
    table: np.ndarray,
    words: np.ndarray,
    scale: np.ndarray,
    start: int,
    out: np.ndarray,
    axes: Axes,
) -> None:
    """Decode rows ``start``, ``start + 1``, ... of a weight into ``out``.

    ``table`` and ``scale`` have no elements where there is none.
    """
    m, d, columns = size.shape[0], words.shape[1], out.shape[1]
    index = np.empty(m, np.int32)
    for r in range(out.shape[0]):
        unpack(stream, bits, (start + r) * m * bits, size, first, 0, m, index)
        if table.shape[0] > 0:
            for j in range(m):
                index[j] = table[index[j]]
        factor = scale[start + r] if scale.shape[0] > 0 else np.float32(1.0)
        whole = columns // d if len(axes) > 0 else 0
        at = r * columns
        for j in range(whole):
            put(out, at, words, index[j], factor, axes)
            at += d
        for j in range(whole, m):
            for i in range(min(d, columns - j * d)):
                out[r, j * d + i] = words[index[j], i] * factor


@compiled()
def table_rows(
    stream: np.ndarray,
    bits: int,
    size: np.ndarray,
    first: np.ndarray,
    table: np.ndarray,
    words: np.ndarray,
    x: np.ndarray,
    start: int,
    total: np.ndarray,
    block: int,
    axes: Axes,
    lanes: Axes,
) -> None:
    """Set ``total[r]`` to the products of row ``start + r`` of a weight with all rows of x.

    ``x`` is (m * d, rows of x), zero where columns are missing; both its and ``total``'s last axis
    is as long as ``lanes``. The sums of ``block`` positions are made at a time.
    """
    m, d = size.shape[0], words.shape[1]
    sums = np.empty((block * size.max(), len(lanes)), np.float32)
    begin, index = np.empty(m, np.int32), np.empty(block, np.int32)
    total[:] = 0.0
    for g in range(0, m, block):
        count, n = min(block, m - g), 0
        for j in range(g, g + count):
            begin[j] = n
            for c in range(first[j], first[j] + size[j]):
                entry = table[c] if table.shape[0] > 0 else c
                if len(axes) > 0:
                    dot(sums, n, words, entry, x, j * d, axes, lanes)
                else:
                    for r in range(len(lanes)):
                        value = np.float32(0.0)
                        for i in range(d):
                            value += words[entry, i] * x[j * d + i, r]
                        sums[n, r] = value
                n += 1
        for r in range(total.shape[0]):
            unpack(stream, bits, ((start + r) * m + g) * bits, size, begin, g, count, index)
            whole = count & ~7
            for j in range(0, whole, 8):
                look_up(total, r, sums, index, j, lanes)
            for j in range(whole, count):
                for i in range(len(lanes)):
                    total[r, i] += sums[index[j], i]
