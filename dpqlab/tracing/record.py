"""A trace: the errors of a student along the sampling trajectory, in one small file."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dpqlab.checkpoint.arrays import ArraySpec, read_described, write_described
from dpqlab.checkpoint.records import FileKind, reading, record_of
from dpqlab.errors import ConfigError
from dpqlab.tracing.compare import BINS, EDGES
from dpqlab.tracing.steps import MEASURES, Measure

KIND = FileKind(what="a trace", maker="`dpqlab trace`", limit=1 << 28)


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What was traced, how, with what, and when.

    ``true_bits`` are those of the student, per weight of the blocks' Linears; ``made`` is a date
    (ISO 8601), ``seconds`` how long the trace took.
    """

    teacher: str
    student: str
    true_bits: float
    labels: tuple[int, ...]
    seed: int
    first_index: int
    steps: int
    guidance: float
    sampler: str
    device: str
    dpqlab: str
    torch: str
    made: str
    seconds: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Trace:
    """Errors of a student, block by block and step by step, summed over images.

    All errors of blocks are relative squared errors: squared error summed over images, tokens and
    width, over the squared norm of the teacher's output, on the teacher's own trajectory. 0 is
    exact; at 1 the error is as large as what should be there.

    Attributes
    ----------
    about
        Where it comes from.
    blocks, branches
        Names: B blocks; M branches of guidance.
    timesteps
        S of them, in sampling order (falling).
    energy, norm
        Numerators, float64 (3, M, B, S) in the order of :data:`~dpqlab.tracing.MEASURES`, and
        denominators (M, B, S).
    counts
        Tokens by relative squared error, (3, M, B, S, bins).
    output_energy, output_norm
        Of the model's prediction, (2, M, S) for "pass" and "accumulated", and (M, S).
    latent_energy, latent_norm
        Of the noisy images after each step, image by image, (S, images).
    image_error
        Mean squared error of the images expected at the end, pixels 0 to 1, (S, images).
    picture_steps
        Indices of the P steps whose pictures were kept.
    pictures
        uint8 (2, P, K, C, H, W): what teacher and student expect at the end, first K images.
    """

    about: Provenance
    blocks: tuple[str, ...]
    branches: tuple[str, ...]
    timesteps: tuple[int, ...]
    energy: np.ndarray
    norm: np.ndarray
    counts: np.ndarray
    output_energy: np.ndarray
    output_norm: np.ndarray
    latent_energy: np.ndarray
    latent_norm: np.ndarray
    image_error: np.ndarray
    picture_steps: tuple[int, ...]
    pictures: np.ndarray

    def __post_init__(self) -> None:
        """Refuse arrays that do not fit each other."""
        branches, blocks, steps = len(self.branches), len(self.blocks), len(self.timesteps)
        images, kept = len(self.about.labels), len(self.picture_steps)
        expected = {
            "energy": (3, branches, blocks, steps),
            "norm": (branches, blocks, steps),
            "counts": (3, branches, blocks, steps, BINS),
            "output_energy": (2, branches, steps),
            "output_norm": (branches, steps),
            "latent_energy": (steps, images),
            "latent_norm": (steps, images),
            "image_error": (steps, images),
            "pictures": (2, kept, *self.pictures.shape[2:]),
        }
        for name, shape in expected.items():
            array: np.ndarray = getattr(self, name)
            kinds = "u" if name == "pictures" else "iu" if name == "counts" else "f"
            if array.shape != shape or array.dtype.kind not in kinds:
                raise ConfigError(
                    f"{name} of a trace is {array.dtype} {array.shape}: expected {shape}, "
                    f"kind {kinds}"
                )
            if not np.isfinite(array).all() or (array < 0).any():
                raise ConfigError(f"{name} of a trace has a value that is no size of an error")
        if self.pictures.dtype != np.uint8 or self.pictures.ndim != 6:
            raise ConfigError(
                f"pictures of a trace are {self.pictures.dtype} {self.pictures.shape}: expected "
                "uint8 (2, steps, images, channels, height, width)"
            )
        rising = list(self.picture_steps) == sorted(set(self.picture_steps))
        if not rising or not set(self.picture_steps) <= set(range(steps)):
            raise ConfigError(
                f"pictures of the steps {self.picture_steps}: expected rising, below {steps}"
            )

    @property
    def name(self) -> str:
        """Name of the student."""
        return self.about.student

    @property
    def steps(self) -> int:
        """Sampling steps."""
        return len(self.timesteps)

    def error(self, measure: Measure, branch: str | None = None) -> np.ndarray:
        """Return the relative squared error of every block at every step, (B, S).

        Parameters
        ----------
        measure
            "local", "pass" or "accumulated".
        branch
            Of guidance; None: all together.
        """
        which, chosen = self._measure(measure), self._branch(branch)
        return _ratio(self.energy[which, chosen].sum(0), self.norm[chosen].sum(0))

    def by_block(self, measure: Measure, branch: str | None = None) -> np.ndarray:
        """Return the error of every block over all steps, (B,): sum over sum."""
        which, chosen = self._measure(measure), self._branch(branch)
        return _ratio(self.energy[which, chosen].sum((0, 2)), self.norm[chosen].sum((0, 2)))

    def by_step(self, measure: Measure, branch: str | None = None) -> np.ndarray:
        """Return the mean over blocks of the error at every step, (S,).

        A mean of the blocks' ratios, as in calibration: the norm of the hidden states grows from
        block to block, and a sum over a sum would show the last blocks alone.
        """
        return self.error(measure, branch).mean(0)

    def growth(self, branch: str | None = None) -> tuple[float, float]:
        """Return how many times larger errors get along the blocks of a pass, and along the steps.

        Means over all blocks and steps: of the error within one pass over that of single blocks,
        and of the accumulated error over that within one pass. A factor is not a number where
        nothing is wrong.
        """
        local, one_pass, accumulated = (float(self.error(m, branch).mean()) for m in MEASURES)
        nothing = float("nan")
        return (
            one_pass / local if local else nothing,
            accumulated / one_pass if one_pass else nothing,
        )

    def output_error(self, measure: Measure, branch: str | None = None) -> np.ndarray:
        """Return the relative squared error of the predicted noise at every step, (S,)."""
        if self._measure(measure) == 0:
            raise ConfigError("'local' is about single blocks: expected 'pass' or 'accumulated'")
        chosen = self._branch(branch)
        energy = self.output_energy[MEASURES.index(measure) - 1, chosen]
        return _ratio(energy.sum(0), self.output_norm[chosen].sum(0))

    def latent_error(self) -> np.ndarray:
        """Return the relative squared error of the noisy images after every step, (S,)."""
        return _ratio(self.latent_energy.sum(1), self.latent_norm.sum(1))

    def picture_error(self) -> np.ndarray:
        """Return the mean squared error of the expected images, pixels 0 to 1, (S,)."""
        return self.image_error.mean(1)

    def distribution(
        self, measure: Measure, block: int, step: int, branch: str | None = None
    ) -> np.ndarray:
        """Return how many tokens of a cell have which error, (bins,): see :data:`EDGES`."""
        self.check_cell(block, step)
        return self.counts[self._measure(measure), self._branch(branch), block, step].sum(0)

    def quantiles(
        self, measure: Measure, block: int, step: int, shares: tuple[float, ...] = (0.1, 0.5, 0.9)
    ) -> tuple[float, ...]:
        """Return errors that these shares of a cell's tokens stay below, to a bin's width."""
        total = np.cumsum(self.distribution(measure, block, step))
        uppers = np.append(EDGES, np.inf)
        return tuple(float(uppers[np.searchsorted(total, share * total[-1])]) for share in shares)

    def check_cell(self, block: int, step: int) -> None:
        """Raise ConfigError unless the trace has this block and this step."""
        for what, at, count in (("block", block, len(self.blocks)), ("step", step, self.steps)):
            if not 0 <= at < count:
                raise ConfigError(f"{what} {at} of {self.name}: expected 0 to {count - 1}")

    def nearest_picture(self, step: int) -> int:
        """Return the place in ``pictures`` of the kept step that is nearest to a step."""
        if not self.picture_steps:
            raise ConfigError(f"the trace of {self.name} keeps no pictures")
        return min(range(len(self.picture_steps)), key=lambda i: abs(self.picture_steps[i] - step))

    def _measure(self, measure: str) -> int:
        if measure not in MEASURES:
            raise ConfigError(f"measure is {measure!r}: expected one of {', '.join(MEASURES)}")
        return MEASURES.index(measure)

    def _branch(self, branch: str | None) -> list[int]:
        if branch is None:
            return list(range(len(self.branches)))
        if branch not in self.branches:
            raise ConfigError(
                f"branch is {branch!r}: expected one of {', '.join(self.branches)}, or None"
            )
        return [self.branches.index(branch)]

    def save(self, path: Path) -> None:
        """Write a compressed npz without pickled objects; it appears whole or not at all."""
        described = {name: getattr(self, name) for name in _LISTS}
        about = asdict(_Description(about=self.about, **described))
        arrays: dict[str, np.ndarray] = {name: getattr(self, name) for name in _ARRAYS}
        write_described(path, about, arrays | {"counts": self.counts.astype(np.uint32)})

    @classmethod
    def load(cls, path: Path) -> Trace:
        """Read what :meth:`save` wrote.

        Raises
        ------
        CheckpointError
            If the file is missing, damaged, or something else.
        """
        with reading(path, KIND):
            about, arrays = read_described(path, _ARRAYS, kind=KIND)
            values: dict[str, Any] = {**vars(record_of(_Description, about)), **arrays}
            return cls(**values)


@dataclass(frozen=True, kw_only=True)
class _Description:
    """What a file says of its arrays: the fields of a trace that are none."""

    about: Provenance
    blocks: tuple[str, ...]
    branches: tuple[str, ...]
    timesteps: tuple[int, ...]
    picture_steps: tuple[int, ...]


_LISTS = ("blocks", "branches", "timesteps", "picture_steps")
_ARRAYS = {
    "energy": ArraySpec(kind="f", shape=(None,) * 4),
    "norm": ArraySpec(kind="f", shape=(None,) * 3),
    "counts": ArraySpec(kind="iu", shape=(None,) * 5),
    "output_energy": ArraySpec(kind="f", shape=(None,) * 3),
    "output_norm": ArraySpec(kind="f", shape=(None,) * 2),
    "latent_energy": ArraySpec(kind="f", shape=(None,) * 2),
    "latent_norm": ArraySpec(kind="f", shape=(None,) * 2),
    "image_error": ArraySpec(kind="f", shape=(None,) * 2),
    "pictures": ArraySpec(kind="u", dtype="uint8", shape=(None,) * 6),
}


def _ratio(energy: np.ndarray, norm: np.ndarray) -> np.ndarray:
    """Divide; what is nothing and met exactly has no error."""
    return np.divide(energy, norm, out=np.zeros_like(energy), where=energy != 0)
