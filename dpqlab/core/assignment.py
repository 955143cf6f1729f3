"""The E-step of one layer: codes chosen again so that the layer's *output* is met.

k-means gives every sub-vector its nearest codeword, as if the inputs of a layer were independent of
each other and equally strong. They are neither: what one position gets wrong, another can make up
for. For row ``r`` of the decoded weight the squared output error is, up to a constant,

    q_r(what) = what G what^T - 2 c_r . what        G = E[x x^T],  c_r = E[y_r x]

with ``x`` the layer's input and ``y`` the output wanted of it. Finding the best codes is a closest
vector problem. Here: *coordinate descent* (positions in order, the others fixed, each step exact),
from the codes as they are and, if asked for, from a *beam search* as well (Babai's nearest plane
with more than one survivor; a beam of one is GPTQ, arXiv 2210.17323, with codewords for grid
points). Rows are independent and worked on together, in float64, as matrix products.
"""

# torch leaves tolist and cholesky_ex untyped
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from dpqlab.core.formats import Encoded
from dpqlab.core.memory import with_less
from dpqlab.core.subvectors import split
from dpqlab.errors import ConfigError, ShapeError

CHUNK_BYTES = 1 << 27  # scratch memory of the rows that are worked on together, or less
BLOCK = 128  # columns whose changes reach the rest of the row in one matrix product
_NOISE = 1e-12  # gains below this share of a row's energy are rounding, and no reason to move


@dataclass(frozen=True, kw_only=True)
class AssignmentConfig:
    """How codes are chosen again.

    Attributes
    ----------
    candidates
        Codewords tried for each sub-vector, besides its present one: the nearest ones to the best
        weight without codebooks, see :func:`reassign`. 0 tries all of the codebook.
    sweeps
        Most passes of coordinate descent over the positions; it stops when nothing changes.
    beam
        Survivors of the beam search that gives a second start; 0 leaves it out.
    damping
        Pull towards the anchor: this share of the mean of G's diagonal, added to the diagonal.
        Where calibration saw too few inputs it keeps codes from fitting their accidents.
    """

    candidates: int = 4
    sweeps: int = 2
    beam: int = 1
    damping: float = 0.01

    def __post_init__(self) -> None:
        for name in ("candidates", "sweeps", "beam"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must not be negative: got {getattr(self, name)}")
        if not 0.0 <= self.damping < float("inf"):
            raise ConfigError(f"damping must be a share of the mean: got {self.damping}")


@dataclass(frozen=True, kw_only=True, eq=False)
class Reassignment:
    """Codes (out, m), and what they are worth.

    ``before`` and ``after`` are the objectives ``q`` of the rows, float64 (out,), without damping;
    ``after`` is nowhere above ``before``. ``changed`` counts the codes that are new.
    """

    codes: Tensor
    before: Tensor
    after: Tensor
    changed: int


def reassign(
    encoded: Encoded,
    gram: Tensor,
    cross: Tensor,
    config: AssignmentConfig | None = None,
    *,
    anchor: Tensor | None = None,
) -> Reassignment:
    """Choose the codes of a layer again, to meet the outputs that are wanted of it.

    Candidates of a sub-vector are the codewords nearest to the unconstrained optimum
    ``W* = (C + damping A) (G + damping I)^-1`` in the metric of its own d x d block of G, not those
    nearest to its present value: after codewords were trained the present code may be far from
    right, and if G is block-diagonal the nearest to W* is the answer.

    Parameters
    ----------
    encoded
        The layer as it is.
    gram
        G, (in, in): second moments of the layer's input, symmetric, positive semidefinite.
    cross
        C, (out, in): cross moments of the wanted outputs with that input. For outputs ``W x`` of
        the same input it is ``W G``, and ``q`` adds up to ``tr((W - What) G (W - What)^T)`` less a
        constant.
    config
        See :class:`AssignmentConfig`.
    anchor
        A, (out, in): the weight that damping pulls to; default: the decoded weight.

    Returns
    -------
    Reassignment
        A row whose objective would not fall keeps its codes.

    Raises
    ------
    ShapeError
        If the moments do not fit the layer.
    ConfigError
        If a moment is not finite.
    """
    config = AssignmentConfig() if config is None else config
    _check(encoded, gram, cross, anchor)
    device, d = encoded.codes.device, encoded.pool.d
    raw = gram.to(device, torch.float64)
    wanted = cross.to(device, torch.float64)
    rows, columns = encoded.shape
    damping = config.damping * float(raw.diagonal().mean())
    system = _system(encoded, raw, damping)
    scale = torch.ones(rows, dtype=torch.float64, device=device)
    if encoded.scale is not None:
        scale = encoded.scale.double()
    widest = max(system.factor.shape[0], *(len(book) for book in system.books))

    def chosen(part: slice) -> tuple[Tensor, Tensor, Tensor]:
        codes = encoded.codes[part].long()
        what = system.decode(codes, scale[part])
        to = what[:, :columns] if anchor is None else anchor[part].to(device, torch.float64)
        linear = split(wanted[part] + damping * to, d).flatten(1)
        task = _Rows(system=system, linear=linear, scale=scale[part])
        better = _best_of(task, codes, config)
        before = _objective(what[:, :columns], raw, wanted[part])
        after = _objective(system.decode(better, scale[part])[:, :columns], raw, wanted[part])
        kept = after >= before
        return torch.where(kept[:, None], codes, better), before, torch.where(kept, before, after)

    def by(step: int) -> list[tuple[Tensor, Tensor, Tensor]]:
        return [chosen(slice(first, first + step)) for first in range(0, rows, step)]

    found = with_less(by, max(1, CHUNK_BYTES // (8 * widest * max(1, config.beam))))
    codes, before, after = (torch.cat(parts) for parts in zip(*found, strict=True))
    changed = int((codes != encoded.codes).sum())
    return Reassignment(codes=codes, before=before, after=after, changed=changed)


@dataclass(frozen=True, kw_only=True, eq=False)
class _System:
    """What all rows of a layer share; ``width`` columns are filled up to M = m * d with zeros.

    ``matrix`` (M, M) is the damped G, ``factor`` (M, M) upper triangular U with G = U U^T,
    ``books`` the codebook (k, d) of every position, ``squares`` its (k,) values e G_gg e^T.
    """

    width: int
    matrix: Tensor
    factor: Tensor
    books: list[Tensor]
    squares: list[Tensor]

    def columns(self, position: int) -> slice:
        """Return the columns of a position."""
        d = self.books[0].shape[1]
        return slice(position * d, position * d + d)

    def decode(self, codes: Tensor, scale: Tensor) -> Tensor:
        """Return the rows (n, M) that codes (n, m) stand for."""
        parts = [book[codes[:, g]] for g, book in enumerate(self.books)]
        return torch.cat(parts, 1) * scale[:, None]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Rows:
    """Some rows of a layer: damped cross moments ``linear`` (n, M) and ``scale`` (n,)."""

    system: _System
    linear: Tensor
    scale: Tensor

    def optimum(self) -> Tensor:
        """Return the best rows without codebooks, (n, M); padding is 0."""
        width, best = self.system.width, torch.zeros_like(self.linear)
        factor = self.system.factor[:width, :width]
        inner = torch.linalg.solve_triangular(factor, self.linear[:, :width].T, upper=True)
        best[:, :width] = torch.linalg.solve_triangular(factor.T, inner, upper=False).T
        return best


def _system(encoded: Encoded, gram: Tensor, damping: float) -> _System:
    """Damp and factor G, and lay out the codebooks in float64."""
    columns, d, m = encoded.shape[1], encoded.pool.d, encoded.codes.shape[1]
    matrix = gram.new_zeros(m * d, m * d)
    matrix[:columns, :columns] = gram
    matrix.diagonal()[:columns] += damping
    factor = torch.zeros_like(matrix)  # what codewords hold in the padding costs nothing
    factor[:columns, :columns] = _upper_factor(matrix[:columns, :columns])
    runs = encoded.pool.base.tolist()
    words = encoded.pool.codewords.detach().double()
    of_scope = [words[low:high] for low, high in pairwise(runs)]
    books = [of_scope[s] for s in encoded.scope_of.tolist()]
    blocks = [matrix[g * d : g * d + d, g * d : g * d + d] for g in range(m)]
    squares = [((b @ block) * b).sum(1) for b, block in zip(books, blocks, strict=True)]
    return _System(width=columns, matrix=matrix, factor=factor, books=books, squares=squares)


def _upper_factor(matrix: Tensor) -> Tensor:
    """Return upper triangular U with U U^T = matrix, plus as little on the diagonal as it takes."""
    size = float(matrix.diagonal().mean())
    ridge = 1e-10 * (size if size > 0 else 1.0)
    while True:
        ridged = matrix.clone()
        ridged.diagonal().add_(ridge)
        lower, failed = torch.linalg.cholesky_ex(ridged.flip(0, 1))
        if not bool(failed):
            return lower.flip(0, 1)
        ridge *= 10


def _best_of(task: _Rows, codes: Tensor, config: AssignmentConfig) -> Tensor:
    """Descend from the present codes and from the beam's, and take the better for each row."""
    optimum = task.optimum()
    candidates = [
        _candidates(task, optimum, g, config.candidates) for g in range(len(task.system.books))
    ]
    best = _descended(task, codes, candidates, config.sweeps)
    if config.beam == 0:
        return best
    other = _beam(task, optimum, candidates, config.beam)
    other = _descended(task, other, candidates, config.sweeps)
    value, rival = (
        _objective(task.system.decode(c, task.scale), task.system.matrix, task.linear)
        for c in (best, other)
    )
    return torch.where((rival < value)[:, None], other, best)


def _candidates(task: _Rows, optimum: Tensor, position: int, count: int) -> Tensor | None:
    """Return the codes (n, count) nearest to the optimum; None stands for all there are."""
    system, own = task.system, task.system.columns(position)
    if count == 0 or count >= len(system.books[position]):
        return None
    pull = optimum[:, own] @ system.matrix[own, own]
    scores = _scores(system.books[position], system.squares[position], pull, task.scale, None)
    return scores.topk(count, dim=1, largest=False).indices


def _scores(
    book: Tensor, squares: Tensor, pull: Tensor, scale: Tensor, candidates: Tensor | None
) -> Tensor:
    """Return ``s^2 e A e^T - 2 s pull . e`` of candidate codewords: (n, c), or (n, k) for all."""
    if candidates is None:
        return scale[:, None] * (scale[:, None] * squares - 2 * pull @ book.T)
    along = (book[candidates] @ pull[..., None])[..., 0]
    return scale[:, None] * (scale[:, None] * squares[candidates] - 2 * along)


def _descended(task: _Rows, codes: Tensor, candidates: list[Tensor | None], sweeps: int) -> Tensor:
    """Lower the damped objective of all rows, position by position, ``sweeps`` times."""
    system, codes = task.system, codes.clone()
    what = system.decode(codes, task.scale)
    rest = task.linear - what @ system.matrix  # half the negative gradient
    floor = _NOISE * (task.linear * what).sum(1).abs() + _NOISE * (rest * what).sum(1).abs()
    positions = range(len(system.books))
    step = max(1, BLOCK // system.books[0].shape[1])
    for _ in range(sweeps):
        before = codes.clone()
        for first in positions[::step]:
            group = positions[first : first + step]
            block = slice(system.columns(group[0]).start, system.columns(group[-1]).stop)
            old = what[:, block].clone()
            for g in group:
                # the block's own changes are felt at once, the others' have arrived already
                own = system.columns(g)
                moved = what[:, block] - old
                pull = rest[:, own] - moved @ system.matrix[block, own]
                pull += what[:, own] @ system.matrix[own, own]
                codes[:, g] = _chosen(task, pull, codes[:, g], candidates[g], g, floor)
                what[:, own] = system.books[g][codes[:, g]] * task.scale[:, None]
            rest -= (what[:, block] - old) @ system.matrix[block]
        if torch.equal(before, codes):
            break
    return codes


def _chosen(
    task: _Rows,
    pull: Tensor,
    present: Tensor,
    candidates: Tensor | None,
    position: int,
    floor: Tensor,
) -> Tensor:
    """Return the best code of a position (n,), the others fixed; the present one unless beaten."""
    book, squares = task.system.books[position], task.system.squares[position]
    scores = _scores(book, squares, pull, task.scale, candidates)
    now = _scores(book, squares, pull, task.scale, present[:, None])[:, 0]
    best, index = scores.min(1)
    code = index if candidates is None else candidates.gather(1, index[:, None])[:, 0]
    return torch.where(best < now - floor, code, present)


def _beam(task: _Rows, optimum: Tensor, candidates: list[Tensor | None], width: int) -> Tensor:
    """Choose codes (n, m) from the first position to the last, keeping ``width`` prefixes a row.

    A prefix counts what it costs if the positions still to come made up for it freely: with
    ``G = U U^T`` the squared norm of the first columns of ``(what - W*) U``.
    """
    system = task.system
    rows, columns = optimum.shape
    error = optimum.new_empty(rows, width, columns)  # what - W* of every prefix
    codes = torch.empty(rows, width, len(system.books), dtype=torch.int64, device=optimum.device)
    cost = optimum.new_zeros(rows, 1)
    for g, book in enumerate(system.books):
        own, alive = system.columns(g), cost.shape[1]
        corner = system.factor[own, own]
        missing = error[:, :alive, : own.start] @ system.factor[: own.start, own]
        missing = missing - (optimum[:, own] @ corner)[:, None]
        pull, turned = -(missing @ corner.T), book @ corner
        tried, scale = candidates[g], task.scale.repeat_interleave(alive)
        if tried is not None:
            tried = tried.repeat_interleave(alive, 0)
        scores = _scores(book, turned.square().sum(1), pull.flatten(0, 1), scale, tried)
        total = (cost + missing.square().sum(2))[..., None] + scores.view(rows, alive, -1)
        cost, index = total.flatten(1).topk(min(width, total[0].numel()), 1, largest=False)
        parent, code = index // total.shape[2], index % total.shape[2]
        if (few := candidates[g]) is not None:
            code = few.gather(1, code)
        left = cost.shape[1]
        if width > 1:
            for prefix, filled in ((error, own.start), (codes, g)):
                heirs = parent[..., None].expand(-1, -1, filled)
                prefix[:, :left, :filled] = prefix[:, :alive, :filled].gather(1, heirs)
        error[:, :left, own] = book[code] * task.scale[:, None, None] - optimum[:, None, own]
        codes[:, :left, g] = code
    return codes[:, 0]


def _objective(what: Tensor, matrix: Tensor, linear: Tensor) -> Tensor:
    """Return ``what G what^T - 2 c . what`` of rows (n, M)."""
    return ((what @ matrix - 2 * linear) * what).sum(1)


def _check(encoded: Encoded, gram: Tensor, cross: Tensor, anchor: Tensor | None) -> None:
    rows, columns = encoded.shape
    given = {"gram": (gram, (columns, columns)), "cross": (cross, (rows, columns))}
    if anchor is not None:
        given["anchor"] = (anchor, (rows, columns))
    for name, (tensor, shape) in given.items():
        if tuple(tensor.shape) != shape:
            raise ShapeError(
                f"{name} of a layer {encoded.shape} has shape {tuple(tensor.shape)}: "
                f"expected {shape}"
            )
        if not bool(torch.isfinite(tensor).all()):
            raise ConfigError(
                f"{name} holds NaN or infinity: gather it again from finite activations"
            )
