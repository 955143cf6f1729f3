"""VQ by codebook size, and VQ against PQ at equal true bits: where does which win.

    python -m benchmarks.vq_vs_pq [--parts sizes pairs] [--wide FOLDER] [--quick]
    python -m benchmarks.vq_vs_pq --calibrate 2500 [--wide FOLDER] [--share 0/2]
    python -m benchmarks.vq_vs_pq --export dpqlab/assets/fashion-dit-runs/vq-vs-pq.json

Before calibration, by the relative squared error of the weights. ``sizes``: a block of the bundled
model with VQ of 16 to 65,536 codewords, a codebook each layer, each kind of layer, or the model.
``pairs``: single layers of it, of a wider model and of a random DiT-XL/2 (iid Gaussian); each VQ
point beside the PQ codecs of at most 1024 codewords whose true bits are nearest, within 2 %. Bits
are exact; 16,384 codewords and more are made by k-means in two levels (5 % more error than plain
k-means at 4096), and searched for on a seeded draw of rows. About thirteen minutes on one CPU core.

With ``--calibrate`` the students of a few such pairs are calibrated for so many steps, with codes
fixed and with codes moving, and judged as ``benchmarks.fashion`` does: a minute each on one H100.

``--export`` measures nothing: it writes what the notebooks draw of the records.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.ablation import student_of
from benchmarks.fashion import TEACHER, Judge, sampler_of
from benchmarks.record import RESULTS, append, make_record, read
from dpqlab.calibration.ablation import AblationRow
from dpqlab.calibration.presets import BEST, DISTILLED, lasting
from dpqlab.core import CodebookCodec, Pool, decode, encode, fit_pool, relative_error, split
from dpqlab.core.codecs import RESERVOIR
from dpqlab.core.kmeans import KMeansConfig, KMeansResult, inertia_of
from dpqlab.diffusion import load_pipeline
from dpqlab.evaluation.config import EvaluationConfig
from dpqlab.evaluation.datasets import calibration_images
from dpqlab.evaluation.evaluator import draw_teacher_steps, last_of
from dpqlab.evaluation.projection import DIT_XL_2, Geometry, Projection, project
from dpqlab.kernels.dispatch import best_assigner, best_clusterer
from dpqlab.nn import Plan, kind_of
from dpqlab.nn.targets import targets_of
from dpqlab.studies.codec_contest import contest_of

SUITE = "vq_vs_pq"
UNIT = "share of the weights' energy"
BLOCK = 3
KINDS = ("attn1.to_q", "ff.net.0.proj", "ff.net.2", "norm1.linear")  # one of each shape
SIZES = (16, 64, 256, 1024, 4096, 16_384, 65_536)
PAIRED = {4: (16, 64, 256), 8: (64, 256, 1024)}  # codewords of the VQ points by d
LENGTHS = (2, 3, 4, 6, 8, 12, 16)  # of PQ: so many, so that some k near a power of two is near
MAX_PQ = 1024  # codewords a codebook of PQ; the paper uses 256
NEAR = 0.02  # true bits within this share are equal
SPARSE = 4  # fewest sub-vectors a codeword worth measuring
LARGE = 4096  # from so many codewords on, 8 iterations of k-means
TWO_LEVELS = 16_384  # from so many on, k-means in two levels
SEARCH = 8e10  # most multiplications of one search of codes; about ten seconds
CALIBRATIONS = {"codes fixed": DISTILLED, "latents": BEST}
DRAWN = 1152 * 1152  # values of a random layer: columns are alike, so a few do for a large one


@dataclass(frozen=True, kw_only=True)
class Subject:
    """Weights to be quantized, and the geometry that decides what their codebooks cost.

    Attributes
    ----------
    name, width
        For the records.
    geometry
        Shapes of a block's Linears, and how many blocks share codebooks.
    layers
        Weights of a kind: of the judged layer, which comes first, and if asked for of the same
        layer in all other blocks.
    gaussian
        Whether the weights are iid Gaussian, so that Shannon's bound holds.
    """

    name: str
    width: int
    geometry: Geometry
    layers: Callable[[str, bool], list[Tensor]]
    gaussian: bool = False

    def part(self, kinds: Sequence[str]) -> Geometry:
        """Return the geometry of some kinds alone."""
        linears = {kind: self.geometry.linears[kind] for kind in kinds}
        return replace(self.geometry, linears=linears)


@dataclass(frozen=True, kw_only=True)
class Point:
    """One codec on layers of one subject, without calibration.

    ``rows_per_codeword`` is the number of sub-vectors that share a codebook over that of its
    codewords (for PQ: rows over k), the smallest of the layers'. ``errors`` are relative squared
    errors by kind, ``error`` that of all together. ``gains`` are coding gains by kind, of positions
    apart and of all together (see :func:`coding_gain`): what PQ can make use of, and what VQ can.
    """

    subject: Subject
    kinds: tuple[str, ...]
    codec: CodebookCodec
    bits: Projection
    rows_per_codeword: float
    error: float
    errors: dict[str, float]
    gains: dict[str, dict[str, float]]
    seconds: float

    @property
    def kind(self) -> str:
        """The kind of layer, or ``"block"`` for several."""
        return self.kinds[0] if len(self.kinds) == 1 else "block"

    @property
    def family(self) -> str:
        """The codec's name without its numbers, such as ``"PQ/kind"``."""
        return self.codec.describe().partition(" ")[0]

    @property
    def row(self) -> str:
        """The row of the record."""
        return f"{self.subject.name} {self.kind}: {self.codec.describe()}"

    def details(self) -> dict[str, Any]:
        """Return what the record tells beside the error."""
        weights = self.bits.block_weights
        parts = {name: getattr(self.bits, name) / weights for name in ("codes", "pool", "bias")}
        return {
            "subject": self.subject.name,
            "width": self.subject.width,
            "kind": self.kind,
            "family": self.family,
            "codec": self.codec.describe(),
            "d": self.codec.d,
            "k": self.codec.k,
            "true_bits": self.bits.true_bits,
            "bits": parts,
            "rows_per_codeword": self.rows_per_codeword,
            "relative_error": self.error,
            "errors": self.errors,
            "coding_gains": self.gains,
            "gaussian_bound": 2 ** (-2 * self.bits.true_bits),
            "seconds": round(self.seconds, 2),
        }


def model_subject(name: str, model: nn.Module, block: int = BLOCK) -> Subject:
    """Return the block Linears of a DiT; layers of ``block`` are judged (the last, if fewer)."""
    weights: dict[str, list[Tensor]] = {}
    for target in targets_of(model, Plan.for_blocks(vq(4, 16))):
        weights.setdefault(kind_of(target.name), []).append(target.linear.weight.detach().float())
    shapes = {kind: (len(found[0]), found[0].shape[1]) for kind, found in weights.items()}
    blocks = len(next(iter(weights.values())))
    judged = min(block, blocks - 1)

    def layers(kind: str, shared: bool) -> list[Tensor]:
        found = weights[kind]
        rest = [w for index, w in enumerate(found) if index != judged]
        return [found[judged], *(rest if shared else [])]

    parameters = sum(p.numel() for p in model.parameters())
    geometry = Geometry(name=name, linears=shapes, blocks=blocks, parameters=parameters)
    return Subject(name=name, width=shapes[KINDS[0]][1], geometry=geometry, layers=layers)


def random_subject(geometry: Geometry = DIT_XL_2, *, values: int = DRAWN, seed: int = 0) -> Subject:
    """Return iid Gaussian layers with all rows, and columns for about ``values`` values.

    Nothing tells the columns of such a weight apart, so the error on some is the error on all;
    bits are those of the whole layer.
    """

    def layers(kind: str, shared: bool) -> list[Tensor]:
        out, columns = geometry.linears[kind]
        count = geometry.blocks if shared else 1
        step = 48 if shared else 192  # whole sub-vectors of every d; whole groups of four
        some = min(columns, max(step, values // (out * count) // step * step))
        generator = torch.Generator().manual_seed(seed + sum(kind.encode()))
        return list(torch.randn(count, out, some, generator=generator).unbind())

    width = geometry.linears[KINDS[0]][1]
    name = f"random {geometry.name}"
    return Subject(name=name, width=width, geometry=geometry, layers=layers, gaussian=True)


def vq(d: int, k: int, across: Any = "layer") -> CodebookCodec:
    """One codebook a layer, kind of layer or model."""
    iterations = 20 if k < LARGE else 8
    return CodebookCodec(d=d, k=k, scope="layer", across=across, iterations=iterations)


def pq_families(across: str) -> tuple[dict[str, Any], ...]:
    """Return the kinds of PQ that VQ shared ``across`` layers is compared with, without d and k."""
    if across == "kind":
        return ({"scope": "position", "across": "kind"},)
    return {"scope": "position"}, {"scope": "group", "group": 4}


def rows_per_codeword(codec: CodebookCodec, geometry: Geometry) -> float:
    """Return the sub-vectors that share a codebook over its codewords, of the smallest pool."""
    blocks = 1 if codec.across == "layer" else geometry.blocks
    shapes = geometry.linears.values()
    if codec.across == "model":
        return blocks * sum(out * columns // codec.d for out, columns in shapes) / codec.k
    positions = {"position": 1, "group": codec.group}
    shared = [
        blocks * out * positions.get(codec.scope, columns // codec.d) for out, columns in shapes
    ]
    return min(shared) / codec.k


def two_levels(
    points: Tensor,
    config: KMeansConfig,
    *,
    generator: torch.Generator,
    weights: Tensor | None = None,
) -> KMeansResult:
    """k-means of sqrt(k) cells, and within each: a clusterer for large ``k`` (one problem).

    The time grows with sqrt(k). A cell gets codewords in proportion to its inertia to the power
    d / (d + 2), which is the best there is where a cell is uniform and well filled (Zador, 1982).
    """
    assert weights is None and len(points) == 1
    cluster, assign = best_clusterer(points.device), best_assigner(points.device)
    count, d = math.isqrt(config.k), points.shape[-1]
    some = torch.randperm(points.shape[1], generator=generator)[: 256 * count]
    top = cluster(points[:, some], KMeansConfig(k=count, iterations=10), generator=generator)
    cell_of = assign(points, top.centroids)[0]
    order = cell_of.argsort(stable=True)
    cells = points[0, order].split(torch.bincount(cell_of, minlength=count).tolist())
    inertia = torch.tensor([float((cell - cell.mean(0)).square().sum()) for cell in cells])
    sizes = _shares(inertia.double() ** (d / (d + 2)), [len(cell) for cell in cells], config.k)
    found, codes, base = [points[0, :0]], torch.empty(len(order), dtype=torch.int64), 0
    for cell, members, k in zip(cells, order.split([len(c) for c in cells]), sizes, strict=True):
        if not k:
            continue
        inner = replace(config, k=max(2, k), iterations=config.iterations if k > 1 else 0)
        result = cluster(cell[None], inner, generator=generator)
        found.append(result.centroids[0] if k > 1 else cell.mean(0, keepdim=True))
        codes[members] = base + result.codes[0] * (k > 1)
        base += k
    centroids, codes = torch.cat(found)[None], codes[None]
    inertia = inertia_of(points, None, centroids, codes)
    return KMeansResult(
        centroids=centroids, codes=codes, inertia=inertia, iterations=config.iterations
    )


def _shares(mass: Tensor, most: Sequence[int], total: int) -> list[int]:
    """Divide ``total`` in proportion to ``mass``; at most ``most``, and 1 where that is not 0."""
    limit = torch.tensor(most)
    low = limit.clamp(max=1)
    assert int(low.sum()) <= total <= int(limit.sum())
    sizes = (mass / mass.sum() * total).long().clamp(low, limit)
    while rest := total - int(sizes.sum()):
        room = sizes < limit if rest > 0 else sizes > low
        wanting = torch.where(room, mass / sizes.clamp(min=1) * (1 if rest > 0 else -1), -torch.inf)
        chosen = wanting.topk(min(abs(rest), int(room.sum()))).indices
        sizes[chosen] += 1 if rest > 0 else -1
    return sizes.tolist()


def fit(weights: list[Tensor], codec: CodebookCodec, *, seed: int) -> Pool:
    """Fit codebooks; one that many layers share, on 64 sub-vectors a codeword where it is slow."""
    large = codec.k >= TWO_LEVELS
    few = codec.scope == "layer" and not large
    return fit_pool(
        weights,
        codec,
        generator=torch.Generator().manual_seed(seed),
        clusterer=two_levels if large else best_clusterer(),
        reservoir=max(65_536, 64 * codec.k) if few else RESERVOIR,
    )


def measure(
    subject: Subject, kinds: Sequence[str], codec: CodebookCodec, *, seed: int = 0
) -> Point:
    """Quantize the judged layers of ``kinds`` and compare, counting the bits of whole layers."""
    started = time.perf_counter()
    shared = codec.across != "layer"
    pool: Pool | None = None
    missed, energy = 0.0, 0.0
    errors: dict[str, float] = {}
    gains: dict[str, dict[str, float]] = {}
    if codec.across == "model":
        pool = fit([w for kind in kinds for w in subject.layers(kind, True)], codec, seed=seed)
    for kind in kinds:
        layers = subject.layers(kind, shared)
        book = fit(layers, codec, seed=seed) if pool is None else pool
        judged = _some_rows(layers[0], codec.k, SEARCH / len(kinds), seed)
        decoded = decode(encode(judged, codec, book, assigner=best_assigner()))
        errors[kind] = relative_error(judged, decoded)
        gains[kind] = coding_gains(layers[0], codec.d)
        mass = float(layers[0].double().square().sum())
        missed, energy = missed + errors[kind] * mass, energy + mass
    geometry = subject.part(kinds)
    return Point(
        subject=subject,
        kinds=tuple(kinds),
        codec=codec,
        bits=project(dict.fromkeys(kinds, codec), geometry),
        rows_per_codeword=rows_per_codeword(codec, geometry),
        error=missed / energy,
        errors=errors,
        gains=gains,
        seconds=time.perf_counter() - started,
    )


def coding_gains(weight: Tensor, d: int) -> dict[str, float]:
    """Return the coding gain of each position's sub-vectors by themselves, and of all together.

    See :func:`coding_gain`; in ``"position"`` positions may differ in covariance and energy.
    """
    points = split(weight, d).double()
    return {
        "position": coding_gain(points.transpose(0, 1)),
        "layer": coding_gain(points.reshape(1, -1, d)),
    }


def coding_gain(points: Tensor) -> float:
    """Return the arithmetic over the geometric mean of the second moments' eigenvalues.

    Of sub-vectors (scopes, count, d): 1 if they are white and all scopes alike. For Gaussian
    sub-vectors and fine codes it is the factor of the error that knowing the moments saves.
    """
    moments = points.mT @ points / points.shape[1]
    values = torch.linalg.eigvalsh(moments).clamp(min=1e-30)
    return float(values.mean() / values.log().mean().exp())


def _some_rows(weight: Tensor, k: int, search: float, seed: int) -> Tensor:
    """Return the rows that can be searched for codes with ``search`` multiplications."""
    rows = max(1, int(search / (weight.shape[1] * k)))
    if rows >= len(weight):
        return weight
    return weight[torch.randperm(len(weight), generator=torch.Generator().manual_seed(seed))[:rows]]


def near_pq(
    codec: CodebookCodec, subject: Subject, kinds: Sequence[str], family: dict[str, Any]
) -> list[CodebookCodec]:
    """Return the PQ of each d with true bits nearest to those of ``codec``, where within 2 %."""
    geometry = subject.part(kinds)

    def bits(one: CodebookCodec) -> float:
        return project(dict.fromkeys(kinds, one), geometry).true_bits

    wanted = bits(codec)
    nearest = [
        min(
            (CodebookCodec(d=d, k=k, **family) for k in range(2, MAX_PQ + 1)),
            key=lambda one: abs(bits(one) - wanted),
        )
        for d in LENGTHS
    ]
    return [one for one in nearest if abs(bits(one) / wanted - 1) <= NEAR]


def size_points(subject: Subject, sizes: Sequence[int] = SIZES) -> Iterator[Point]:
    """Measure VQ of every codebook size with which codewords serve ``SPARSE`` sub-vectors."""
    kinds = tuple(subject.geometry.linears)
    for across in ("layer", "kind", "model"):
        for d in PAIRED:
            for k in sizes:
                codec = vq(d, k, across)
                if rows_per_codeword(codec, subject.part(kinds)) >= SPARSE:
                    yield measure(subject, kinds, codec)


def pair_points(
    subject: Subject, kind: str, paired: dict[int, tuple[int, ...]]
) -> Iterator[tuple[Point, list[Point]]]:
    """Measure every VQ point of one kind of layer, and the PQ points of equal true bits."""
    done: dict[CodebookCodec, Point] = {}

    def point(codec: CodebookCodec) -> Point:
        if codec not in done:
            done[codec] = measure(subject, [kind], codec)
        return done[codec]

    for across in ("layer", "kind"):
        for d, sizes in paired.items():
            for k in sizes:
                one = vq(d, k, across)
                codecs = [p for f in pq_families(across) for p in near_pq(one, subject, [kind], f)]
                yield point(one), [point(codec) for codec in codecs]


def record_of(point: Point, rivals: Sequence[Point] = ()) -> dict[str, Any]:
    """Return the record of a point; of VQ with the best PQ of every family at equal true bits."""
    best: dict[str, Point] = {}
    for rival in sorted(rivals, key=lambda p: p.error):
        best.setdefault(rival.family, rival)
    pairs = [
        {
            "codec": rival.codec.describe(),
            "true_bits": rival.bits.true_bits,
            "relative_error": rival.error,
            "rows_per_codeword": rival.rows_per_codeword,
            "vq_over_pq": point.error / rival.error,
        }
        for rival in best.values()
    ]
    return make_record(
        SUITE,
        point.row,
        "relative_weight_error",
        point.error,
        UNIT,
        rival=pairs[0]["codec"] if pairs else None,
        limit=2 ** (-2 * point.bits.true_bits) if point.subject.gaussian else None,
        higher_is_better=False,
        details=point.details() | {"pairs": pairs},
    )


def student_pairs(subject: Subject) -> list[tuple[CodebookCodec, list[CodebookCodec]]]:
    """Return VQ codecs for whole models, each with the PQ codecs of equal bits and d up to 8."""
    kinds = tuple(subject.geometry.linears)
    pairs: list[tuple[CodebookCodec, list[CodebookCodec]]] = []
    for codec in (vq(8, 256), vq(8, 1024, "kind"), vq(4, 256)):
        near = near_pq(codec, subject, kinds, pq_families(codec.across)[0])
        pairs.append((codec, [one for one in near if one.d <= max(PAIRED)]))
    return pairs


def judge_of(folder: str | Path, judge: Judge) -> Judge:
    """Return the judge of another teacher's students: fidelity is to that teacher."""
    if folder == TEACHER:
        return judge
    full = load_pipeline(folder, device=judge.device).transformer
    return replace(
        judge, teacher=last_of(draw_teacher_steps(sampler_of(full), judge.net, judge.config))
    )


def after_calibration(args: argparse.Namespace, subjects: dict[str | Path, Subject]) -> None:
    """Calibrate and judge the students of every subject; append their records."""
    first = Judge.make(EvaluationConfig(images=args.images, steps=50, batch=1000))
    data = calibration_images(TEACHER, args.data, first.device)
    judges = {folder: judge_of(folder, first) for folder in subjects}
    work = [
        (folder, codec, pair[0].describe(), how, lasting(config, args.calibrate))
        for folder, subject in subjects.items()
        for pair in student_pairs(subject)
        for codec in (pair[0], *pair[1])
        for how, config in CALIBRATIONS.items()
    ]
    index, count = (int(part) for part in args.share.split("/"))
    for folder, codec, beside, how, config in work[index::count]:
        subject = subjects[folder]
        row = AblationRow(
            name=f"{subject.name}: {codec.describe()}, {how}",
            plan=Plan.for_blocks(codec, name=codec.describe()),
            config=config,
            base="" if codec.scope == "layer" else beside,
            change=how,
        )
        student, details = student_of(row, data, folder)
        details |= {"subject": subject.name, "width": subject.width, "vq": beside}
        record = judges[folder].record(SUITE, row.name, student, details, row.base or None)
        append(record, args.results)


def before_calibration(args: argparse.Namespace, subjects: Sequence[Subject]) -> None:
    """Measure points on the CPU; append their records."""
    written: set[str] = set()

    def write(point: Point, rivals: Sequence[Point] = ()) -> None:
        if point.row in written:
            return
        written.add(point.row)
        if not args.dry_run:
            append(record_of(point, rivals), args.results)
        bits, ratio = point.bits.true_bits, point.rows_per_codeword
        print(
            f"{point.row:56s} bits {bits:6.3f}  rows/codeword {ratio:9.1f}  "
            f"error {point.error:.4f}  {point.seconds:.1f} s",
            flush=True,
        )

    if "sizes" in args.parts:
        for point in size_points(subjects[0], SIZES[:2] if args.quick else SIZES):
            write(point)
    if "pairs" in args.parts:
        paired = {d: sizes[:1] for d, sizes in PAIRED.items()} if args.quick else PAIRED
        for subject in subjects:
            for kind in KINDS[:1] if args.quick else KINDS:
                for point, rivals in pair_points(subject, kind, paired):
                    write(point, rivals)
                    for rival in rivals:
                        write(rival)


def main() -> None:
    """Measure, and append the records."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--parts", nargs="+", choices=("sizes", "pairs"), default=("sizes", "pairs")
    )
    parser.add_argument("--wide", type=Path, help="folder of a wider DiT, as diffusers lays it out")
    parser.add_argument("--quick", action="store_true", help="a few small points of each part")
    parser.add_argument("--dry-run", action="store_true", help="append nothing")
    parser.add_argument("--calibrate", type=int, metavar="STEPS", help="measure students instead")
    parser.add_argument("--images", type=int, default=10_000, help="to judge a student by")
    parser.add_argument("--data", type=Path, help="the four idx.gz files")
    parser.add_argument("--share", default="0/1", help="I/N: every Nth student only, from the Ith")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to append to")
    parser.add_argument("--export", type=Path, metavar="FILE", help="of the records, for figures")
    args = parser.parse_args()
    if args.export is not None:
        contest_of(read(SUITE, args.results)).save(args.export)
        return
    folders: list[str | Path] = [TEACHER] if args.wide is None else [TEACHER, args.wide]
    if args.wide is None:
        print("no --wide FOLDER: the wider model is skipped")
    subjects = {
        folder: model_subject(Path(folder).name, load_pipeline(folder).transformer)
        for folder in folders
    }
    if args.calibrate:
        after_calibration(args, subjects)
    else:
        before_calibration(args, [*subjects.values(), random_subject()])


if __name__ == "__main__":
    main()
