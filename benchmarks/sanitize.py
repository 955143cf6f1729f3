"""Every GPU kernel on damaged weights, under NVIDIA's compute-sanitizer.

    python -m benchmarks.sanitize [--tools memcheck racecheck] [--results DIR] [--dry]

The sizes are ragged, the numbers of codewords no powers of two, and half of the weights have codes
of ones only: each lies beyond its codebook, and counts as the last codeword on every backend.
Every tensor is an allocation of its own, so that a byte read past its end is seen (a read of one
such byte is planted first: ``memcheck`` has to see it), and each result is compared with the
reference. One record a tool. ``racecheck`` watches shared memory: it gets the kernels in CUDA C++
alone, and the table kernel as it is on GPUs without bulk copies, because what such a copy writes is
a race to the tool, whatever barrier its readers wait at.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.record import RESULTS, append, make_record
from dpqlab.core import packed_size
from dpqlab.core.packing import code_bits
from dpqlab.kernels import norms, reference
from dpqlab.kernels.coded import CodedWeight, runs_of_positions

SUITE = "sanitize"
ROWS = {
    "memcheck": "every kernel under memcheck",
    "racecheck": "kernels in CUDA C++, without bulk copies, under racecheck",
}
"""What is on record for each tool."""
FAILED = 99
SUMMARY = re.compile(r"(?:ERROR SUMMARY: (\d+) error|RACECHECK SUMMARY: (\d+) hazard)")
SIZES = {(37, 24): (5, 37), (130, 160): (37, 300), (513, 72): (5, 300)}
"""Shapes of weights, and the numbers of codewords for each."""
FOR_TRITON = (
    ((130, 158), 6, 37, "position", False),
    ((130, 158), 6, 37, "layer", True),
    ((513, 72), 8, 300, "position", True),
)
"""Shape, d, k, scope, and whether with a table and scales: Triton compiles for each."""
TOLERANCE = 2e-2  # bfloat16
SAID = 60
"""Lines of a tool that are put on record."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A kernel on an input; ``run`` raises if the result is wrong."""

    name: str
    run: Callable[[], None]


def damaged_weight(
    shape: tuple[int, int], d: int, k: int, *, scope: str, extras: bool, ones: bool
) -> CodedWeight:
    """Return a weight with random bytes as codes, or with ones only.

    Parameters
    ----------
    shape
        (out, in).
    d, k
        Length of a sub-vector, and codewords of a codebook.
    scope
        ``"position"`` or ``"layer"``.
    extras
        Whether with a table and row scales.
    ones
        Whether every code is the largest that its bits can say.
    """
    out, columns = shape
    m, bits = -(-columns // d), code_bits(k)
    books = m if scope == "position" else 1
    base = k * torch.arange(books + 1)
    first, size = runs_of_positions(base, torch.arange(m) % books)
    entries = k * books
    size_in_bytes = packed_size(out * m, bits)
    codes = torch.full((size_in_bytes,), 255) if ones else torch.randint(256, (size_in_bytes,))
    stored = entries // 2 + 1 if extras else entries
    return CodedWeight(
        codes=codes.to(torch.uint8),
        pool=(0.05 * torch.randn(stored, d)).half(),
        first=first,
        size=size,
        table=torch.randint(stored, (entries,), dtype=torch.int32) if extras else None,
        scale=(0.5 + torch.rand(out)).half() if extras else None,
        shape=shape,
        code_bits=bits,
    )


def cases(*, races: bool = False) -> Iterator[Case]:
    """Yield everything to run, or what to look for races in; weights are alike in every call."""
    torch.manual_seed(0)
    for shape, numbers in SIZES.items():
        for k in numbers:
            for scope in ("position", "layer"):
                weight = partial(damaged_weight, shape, k=k, scope=scope)
                for ones in (False, True):
                    what = (
                        f"{shape}, k={k}, a codebook each {scope}, {'ones' if ones else 'random'}"
                    )
                    eight = weight(d=8, extras=ones, ones=ones)
                    four = weight(d=4, extras=not ones, ones=ones)
                    yield Case(name=f"CUDA decoder, {what}", run=partial(_decode, eight, "cuda"))
                    yield Case(
                        name=f"CUDA decoder, d=4, {what}", run=partial(_decode, four, "cuda")
                    )
                    table = "table kernel without bulk copies" if races else "table kernel"
                    yield Case(name=f"{table}, {what}", run=partial(_table, four, races))
    if races:
        return
    for shape, d, k, scope, extras in FOR_TRITON:
        for ones in (False, True):
            weight = damaged_weight(shape, d, k, scope=scope, extras=extras, ones=ones)
            what = f"{shape}, d={d}, k={k}, a codebook each {scope}, {'ones' if ones else 'random'}"
            yield Case(name=f"Triton decoder, {what}", run=partial(_decode, weight, "triton"))
            yield Case(name=f"Triton product, {what}", run=partial(_fused, weight))
    yield Case(name="Triton search, 3 x 1001 points, 37 codewords, d=6", run=_search)
    yield Case(name="Triton norms, 2 x 5 tokens of 100", run=_norms)


def planted() -> Case:
    """Return a case whose codes lack their last byte, which the decoder therefore reads outside."""
    weight = damaged_weight((37, 24), 8, 300, scope="layer", extras=False, ones=False)
    short = replace(weight, codes=weight.codes[:-1].clone())
    return Case(name="planted", run=partial(_decode_short, short))


def _equal(found: Tensor, expected: Tensor) -> None:
    if not torch.equal(found.cpu(), expected):
        raise AssertionError("decoded values differ: expected those of the reference, bit for bit")


def _same(found: Tensor, expected: Tensor) -> None:
    distance = (found.cpu().double() - expected.double()).norm() / expected.double().norm()
    if not distance < TOLERANCE:
        raise AssertionError(f"off by {float(distance):.3g} of its norm: expected {TOLERANCE}")


def _decode(weight: CodedWeight, backend: str) -> None:
    from dpqlab.kernels import cuda_decode, triton_decode

    module: Any = cuda_decode if backend == "cuda" else triton_decode
    expected = reference.decode(weight, torch.bfloat16)
    there = weight.to("cuda")
    _equal(module.decode(there, torch.bfloat16), expected)
    outs = [torch.full_like(expected, torch.nan, device="cuda") for _ in range(2)]
    module.decode_many(module.group_decodes([there, there], outs))
    for out in outs:
        _equal(out, expected)


def _decode_short(weight: CodedWeight) -> None:
    from dpqlab.kernels import cuda_decode

    cuda_decode.decode(weight.to("cuda"), torch.bfloat16)


def _table(weight: CodedWeight, without_bulk_copies: bool) -> None:
    from dpqlab.kernels import cuda_table
    from dpqlab.kernels.table_layout import prepare

    bias = torch.randn(weight.shape[0]).bfloat16() if weight.scale is None else None
    prepared = prepare([weight.to("cuda")], [None if bias is None else bias.cuda()])
    machine = cuda_table.machine_of(prepared.words.device)
    if without_bulk_copies:
        machine = replace(machine, bulk=False)
    for rows in (1, 2, 7):
        x = torch.randn(rows, weight.shape[1]).bfloat16()
        expected = x.double() @ reference.decode(weight, torch.float64).T
        expected = expected if bias is None else expected + bias.double()
        _same(cuda_table.run(prepared, x.cuda(), machine=machine), expected)


def _fused(weight: CodedWeight) -> None:
    from dpqlab.kernels.triton_linear import choose_linear_config, fused_linear

    x, bias = torch.randn(70, weight.shape[1]).bfloat16(), torch.randn(weight.shape[0]).bfloat16()
    expected = x.double() @ reference.decode(weight, torch.float64).T + bias.double()
    config = choose_linear_config(len(x), weight.shape, weight.d)
    for splits in {config.splits, 1}:  # more than one: a second kernel adds the parts
        tiles = replace(config, splits=splits)
        _same(fused_linear(x.cuda(), weight.to("cuda"), bias.cuda(), tiles), expected)


def _search() -> None:
    from dpqlab.core import search
    from dpqlab.kernels import triton_search

    points, words = torch.randn(3, 1001, 6), torch.randn(3, 37, 6)
    square = words.square().sum(2)[:, None]
    expected = search.nearest(points, words, square)
    found = triton_search.nearest(points.cuda(), words.cuda(), square.cuda())
    _same(found.cpu().eq(expected).double().mean(), torch.ones(()))


def _norms() -> None:
    from dpqlab.kernels import triton_norm

    x, y = torch.randn(2, 2, 5, 100).bfloat16()
    gate, shift, scale = torch.randn(3, 2, 100).bfloat16()
    calls: tuple[tuple[str, tuple[Tensor, ...]], ...] = (
        ("norm_modulate", (x, shift, scale)),
        ("gate_add", (x, y, gate)),
        ("gate_add_norm_modulate", (x, y, gate, shift, scale)),
    )
    for name, given in calls:
        expected = getattr(norms, name)(*given)
        found = getattr(triton_norm, name)(*(tensor.cuda() for tensor in given))
        both = zip(found, expected, strict=True) if name == calls[-1][0] else [(found, expected)]
        for ours, right in both:
            _same(ours, right)


def errors_in(output: str) -> int | None:
    """Return the number in a tool's summaries; None where there is none."""
    found = [int(a or b) for a, b in SUMMARY.findall(output)]
    return sum(found) if found else None


def run_under(tool: str, *options: str) -> tuple[int, str]:
    """Run cases under a tool; return the exit status, and all that was said."""
    command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", str(FAILED)]
    command += ["--print-limit", "20"]
    if tool == "memcheck":
        # PyTorch asks the driver for what may not be there, and takes no for an answer
        command += ["--report-api-errors", "no"]
    command += [sys.executable, "-m", "benchmarks.sanitize", "--inside", *options]
    environment = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    return done.returncode, done.stdout + done.stderr


def sanitized(tool: str) -> dict[str, Any]:
    """Run all cases under a tool; return its record.

    Raises
    ------
    RuntimeError
        If the tool says nothing of errors or does not see a planted one, or if the cases did not
        come to their end without any.
    """
    seen = None
    if tool == "memcheck":
        status, output = run_under(tool, "--planted")
        seen = errors_in(output)
        if not seen:
            raise RuntimeError(f"{tool} ({status}) saw no planted error: {output[-2000:]}")
    status, output = run_under(tool, *(["--races"] if tool == "racecheck" else []))
    errors = errors_in(output)
    # a kernel that reads outside ends the process too: that is an error found, and goes on record
    if errors is None or (errors == 0 and status != 0):
        raise RuntimeError(f"{tool} ended with {status}: {output[-2000:]}")
    names = [line.removeprefix("case: ") for line in output.splitlines() if line[:6] == "case: "]
    version = subprocess.run(
        ["compute-sanitizer", "--version"], capture_output=True, text=True, check=True
    )
    return make_record(
        SUITE,
        ROWS[tool],
        "errors",
        errors,
        "errors",
        higher_is_better=False,
        goal=0,
        floor=0,
        limit=0,
        details={
            "cases": names,
            "tool": version.stdout.strip().splitlines()[-1],
            "status": status,
            "planted": seen,
            "said": [line for line in output.splitlines() if line[:5] == "====="][:SAID],
            "last": [] if errors == 0 else output.splitlines()[-20:],
        },
        device="cuda",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the cases under the tools, or here; the exit code is 1 if anything was found."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.sanitize", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--tools", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the records")
    parser.add_argument("--dry", action="store_true", help="print, record nothing")
    parser.add_argument("--inside", action="store_true", help="run the cases, without any tool")
    parser.add_argument("--races", action="store_true", help="with --inside: those for racecheck")
    parser.add_argument("--planted", action="store_true", help="with --inside: an error to be seen")
    args = parser.parse_args(argv)
    if not torch.cuda.is_available():
        parser.error("this wants a GPU, and PyTorch sees none here")
    if args.inside:
        for case in [planted()] if args.planted else cases(races=args.races):
            print(f"case: {case.name}", flush=True)
            case.run()
        torch.cuda.synchronize()
        return 0
    if shutil.which("compute-sanitizer") is None:
        parser.error("compute-sanitizer is not on the PATH: it comes with NVIDIA's CUDA toolkit")
    found = 0
    for tool in args.tools:
        record = sanitized(tool)
        found += record["value"]
        print(f"{tool}: {record['value']} errors, {len(record['details']['cases'])} cases")
        print("\n".join(record["details"]["said"]), flush=True)
        if not args.dry:
            append(record, args.results)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
