"""What flows into the Linears of a model: second moments of their inputs, streamed by hooks.

Three uses. *Column moments* E[x_j^2] say what an error in a column of the weight costs. *Grams*
E[x x^T] say it for all pairs of columns. *Paired moments* belong to a teacher and a student: the
gram of the student's input, and its cross moments with what the teacher's layer gives out, which
together define the output error that the E-step lowers (:mod:`dpqlab.core.assignment`).

Sums are float64 on the device of the activations; the products of one call are true float32, also
under autocast. Every row of an input counts alike, every call of a module counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, MutableMapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from dpqlab.core.precision import exact_float32
from dpqlab.distributed import Team
from dpqlab.errors import ConfigError, ShapeError

Data = TypeVar("Data")


class RunningMean:
    """A mean over all rows seen so far: float64 sums on the device where they are made."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.count = 0
        self._sum: Tensor | None = None

    def add(self, values: Tensor, count: int) -> None:
        """Add ``values``, which sum over ``count`` rows."""
        if self._sum is None:
            self._sum = values.to(torch.float64, copy=True)
        else:
            self._sum += values  # in place: a gram is not there twice
        self.count += count

    def join_(self, team: Team) -> None:
        """Take in the rows that the other processes of a team have seen."""
        if self._sum is None:
            raise ConfigError(f"{self.name} has not run: pass data through the model first")
        team.sum_([self._sum])
        self.count = round(team.total(self.count))

    @property
    def mean(self) -> Tensor:
        """The mean, float64.

        Raises
        ------
        ConfigError
            If the layer never ran.
        """
        if self._sum is None or not self.count:
            raise ConfigError(f"{self.name} has not run: pass data through the model first")
        return self._sum / self.count


@dataclass(frozen=True, kw_only=True, eq=False)
class PairedMoments:
    """Moments of one layer, means over ``count`` rows, all float64.

    ``gram`` (in, in) is E[x x^T] with x the student's input; ``cross`` (out, in) is
    E[(y - b) x^T] and ``power`` (out,) is E[(y - b)^2], with y the teacher's output and b the
    student's bias.
    """

    gram: Tensor
    cross: Tensor
    power: Tensor
    count: int

    def output_error(self, weight: Tensor) -> float:
        """Return E|y - b - W x|^2 over E|y - b|^2 of a weight (out, in)."""
        what = weight.detach().to(self.gram)
        missed = ((what @ self.gram - 2 * self.cross) * what).sum() + self.power.sum()
        return float(missed.clamp(min=0.0) / self.power.sum()) if bool(missed > 0) else 0.0


@contextmanager
def input_moments(
    model: nn.Module, names: Iterable[str]
) -> Iterator[MutableMapping[str, RunningMean]]:
    """Gather E[x_j^2] of the inputs of Linears while the block is left open.

    Parameters
    ----------
    model
        The module that holds them.
    names
        Of Linears, packed ones included.

    Yields
    ------
    dict of name to RunningMean
        Its ``mean`` has shape (in,). Layers may be taken out of it once they are no longer needed.

    Raises
    ------
    ConfigError
        If a name is not that of a Linear.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(2, 3))
    >>> with torch.no_grad(), input_moments(model, ["0"]) as moments:
    ...     _ = model(torch.tensor([[1.0, 2.0], [3.0, 0.0]]))
    >>> moments["0"].mean.tolist()
    [5.0, 2.0]
    """
    with _gathered(model, names, lambda rows: rows.square().sum(0, dtype=torch.float64)) as means:
        yield means


@contextmanager
def input_grams(
    model: nn.Module, names: Iterable[str]
) -> Iterator[MutableMapping[str, RunningMean]]:
    """Gather E[x x^T] of the inputs of Linears: as :func:`input_moments`, but (in, in).

    A gram takes 8 * in^2 bytes, and what one call adds to it half as much: process the names in
    groups if that is too much for all at once, as :mod:`dpqlab.diffusion.inputs` does.
    """
    with _gathered(model, names, lambda rows: rows.T @ rows) as means:
        yield means


def paired_statistics(
    teacher: nn.Module,
    student: nn.Module,
    names: Sequence[str],
    run: Callable[[nn.Module, Data], object],
    batches: Iterable[Data],
    team: Team | None = None,
) -> dict[str, PairedMoments]:
    """Gather the moments of student layers against the outputs of the teacher's.

    Both models see the same batch one after the other, so what is held at any time are the
    teacher's outputs of one batch and the moments of the layers named.

    Parameters
    ----------
    teacher, student
        Models with Linears of the same names and shapes.
    names
        The layers to watch; 8 * in * (in + out) bytes each. Beside them there are the teacher's
        outputs of one batch, 4 * rows * out bytes a layer, and what one call adds to the sums.
    run
        ``run(model, batch)`` passes a batch through either model, in the same way.
    batches
        What to pass through.
    team
        The processes whose batches count together; each gets the moments of all. They may have
        batches of different sizes, but none is without.

    Returns
    -------
    dict of name to PairedMoments

    Raises
    ------
    ConfigError
        If a name is not that of a Linear in both models, or a layer never ran.
    ShapeError
        If a layer runs on other rows, or more often, in one model than in the other.
    """
    sums = {name: [RunningMean(name) for _ in range(3)] for name in names}
    outputs: dict[str, list[Tensor]] = {name: [] for name in names}
    layers = _linears(student, names)

    def keep(name: str, inputs: Tensor, output: Tensor) -> None:
        outputs[name].append(_rows(output))

    def compare(name: str, inputs: Tensor, output: Tensor) -> None:
        x = _rows(inputs)
        wanted = outputs[name].pop(0) if outputs[name] else x.new_zeros(0, output.shape[-1])
        if wanted.shape != (len(x), output.shape[-1]):
            raise ShapeError(
                f"{name} gives {(len(x), output.shape[-1])} in the student where the teacher's "
                f"gave {tuple(wanted.shape)}: both must run alike"
            )
        bias = layers[name].bias
        if bias is not None:
            wanted = wanted - bias.detach().to(wanted)
        gram, cross, power = sums[name]
        gram.add(x.T @ x, len(x))
        cross.add(wanted.T @ x, len(x))
        power.add(wanted.square().sum(0, dtype=torch.float64), len(x))

    for batch in batches:
        with torch.no_grad(), _watched(teacher, names, keep):
            run(teacher, batch)
        with torch.no_grad(), _watched(student, names, compare):
            run(student, batch)
        if left := [name for name in names if outputs[name]]:
            raise ShapeError(
                f"{left[0]} ran {len(outputs[left[0]])} times more in the teacher than in the "
                "student: both must run alike"
            )
    if team is not None and team.world > 1:
        for mean in (mean for parts in sums.values() for mean in parts):
            mean.join_(team)
    found: dict[str, PairedMoments] = {}
    for name in names:
        g, c, p = sums.pop(name)  # the sums of a layer go when its means are there
        found[name] = PairedMoments(gram=g.mean, cross=c.mean, power=p.mean, count=g.count)
    return found


@contextmanager
def _gathered(
    model: nn.Module, names: Iterable[str], summed: Callable[[Tensor], Tensor]
) -> Iterator[MutableMapping[str, RunningMean]]:
    names = list(names)
    means = {name: RunningMean(name) for name in names}

    def add(name: str, inputs: Tensor, output: Tensor) -> None:
        rows = _rows(inputs)
        means[name].add(summed(rows), len(rows))

    with _watched(model, names, add):
        yield means


@contextmanager
def _watched(
    model: nn.Module, names: Sequence[str], see: Callable[[str, Tensor, Tensor], None]
) -> Iterator[None]:
    """Call ``see(name, inputs, output)`` whenever one of the layers has run."""

    def hook_of(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            with torch.no_grad(), exact_float32():
                see(name, args[0], output)

        return hook

    with ExitStack() as hooks:
        for name, linear in _linears(model, names).items():
            hooks.callback(linear.register_forward_hook(hook_of(name)).remove)
        yield


def _rows(values: Tensor) -> Tensor:
    """Flatten (..., features) to float32 rows; float64 stays what it is."""
    flat = values.detach().reshape(-1, values.shape[-1])
    return flat.to(torch.promote_types(flat.dtype, torch.float32))


def _linears(model: nn.Module, names: Sequence[str]) -> dict[str, nn.Linear]:
    modules = dict(model.named_modules(remove_duplicate=False))
    found: dict[str, nn.Linear] = {}
    for name in names:
        module = modules.get(name)
        if not isinstance(module, nn.Linear):
            what = "no module" if module is None else f"a {type(module).__name__}"
            raise ConfigError(f"{name!r} is {what} of {type(model).__name__}: expected a Linear")
        found[name] = module
    return found
