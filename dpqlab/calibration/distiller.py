"""One training step of a student against its teacher: the M-step, and moving latents with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from dpqlab.calibration.batch import Batch
from dpqlab.calibration.codesearch import CodeSearch, initial_latent
from dpqlab.calibration.config import CalibrationConfig
from dpqlab.calibration.forward import compiled_blocks, mixed_precision, predict
from dpqlab.calibration.judging import judge
from dpqlab.calibration.masters import (
    LATENT,
    PARTS,
    compressed_layers,
    masters_of,
    pool_names,
    rounded,
    store_masters_,
)
from dpqlab.calibration.objectives import (
    DistillationLoss,
    block_power,
    timestep_weights,
    training_loss,
)
from dpqlab.calibration.phases import Lesson, Parts, Work, graph_of, lone_step, team_step
from dpqlab.core.memory import with_less
from dpqlab.distributed import Team
from dpqlab.errors import CheckpointError

Found = TypeVar("Found")


class Distiller:
    """Trains a student's masters and codes, a step at a time; on a GPU a step is one CUDA graph.

    A step is some two thousand small kernels; launched one by one they leave the GPU idle for most
    of the time. The graph reads its inputs from ``self.batch`` and updates ``self.masters``.

    The student's layers must have their codes cached; what it stores is left alone until
    :meth:`store_` is called.

    Parameters
    ----------
    student, teacher
        Models on the device of ``batch``.
    config
        Settings.
    batch
        An example of what :meth:`step` will be given.
    alphas
        Cumulative products of the noise schedule (T,), same device.
    team
        The processes that train the same student together, each on its part of every batch.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        config: CalibrationConfig,
        batch: Batch,
        alphas: Tensor,
        team: Team | None = None,
    ) -> None:
        self.team = Team(device=batch.noisy.device) if team is None else team
        self.student, self.teacher, self.config, self.batch = student, teacher, config, batch
        self.device = batch.noisy.device
        self.weights = timestep_weights(alphas, config.objective.timestep_power)
        layers = compressed_layers(student)
        self.searches = {name: CodeSearch(layer) for name, layer in layers.items()}
        self.pools = pool_names(student)
        self.masters = masters_of(student)
        if config.latent is not None:
            self._add_latents()
        self.optimizer = self._optimizer()
        self.taken = 0
        self.at_once = len(batch)  # images; fewer once memory has run out
        self.captured = self._on_gpu and config.cuda_graph
        self._train, self._choose = self._prepared()

    @property
    def _on_gpu(self) -> bool:
        return self.device.type == "cuda"

    def _add_latents(self) -> None:
        for name, search in self.searches.items():
            weight = self.teacher.get_parameter(f"{name}.weight")
            latent = initial_latent(search.layer, weight)
            # no layer holds its latent: functional_call puts it in place, so the student stays one
            # that can be sampled from and saved
            self.masters[f"{name}.{LATENT}"] = latent.requires_grad_()

    def _optimizer(self) -> torch.optim.Adam:
        rates: dict[str, float] = dict.fromkeys(PARTS, self.config.learning_rate)
        if self.config.latent is not None:
            rates[LATENT] = self.config.latent.learning_rate
        groups = [self._group(part, rate) for part, rate in rates.items()]
        return torch.optim.Adam(
            [group for group in groups if group["params"]],
            betas=(0.9, 0.99),
            capturable=self._on_gpu,
            fused=self._on_gpu,
        )

    def _group(self, part: str, rate: float) -> dict[str, Any]:
        """Return an optimiser group of all masters of a kind, with what they move in a step."""
        masters = [m for name, m in self.masters.items() if name.rpartition(".")[2] == part]
        squares = [m.detach().square().mean() for m in masters]
        size = torch.stack(squares).mean().sqrt().item() if masters else 0.0
        # a tensor, because a graph reads the rate from where it was when it was captured
        now = torch.tensor(0.0, device=self.device)
        return {"params": masters, "lr": now, "peak": rate * size}

    def step(self, batch: Batch, share: float) -> None:
        """Take one step on ``batch`` at a share of the peak learning rates, and move the codes."""
        for group in self.optimizer.param_groups:
            group["lr"].fill_(share * group["peak"])
        if self.captured:
            for mine, theirs in zip(self.batch.tensors, batch.tensors, strict=True):
                mine.copy_(theirs)
        else:
            self.batch = batch
        self._train()
        self.taken += 1
        latent = self.config.latent
        if latent is not None and self.taken % latent.every == 0:
            self._choose()

    def _ask(self) -> Lesson:
        """Ask the teacher about the batch."""
        if not self.config.objective.distils:
            return Lesson()
        return self._with_room(self._asked)

    def _learn(self, lesson: Lesson) -> None:
        """Find the gradients of the loss on the batch."""
        self._with_room(partial(self._learned, lesson))

    def _with_room(self, run: Callable[[list[Batch]], Found]) -> Found:
        """Run on the batch; where memory runs out, on pieces of it, from then on.

        That adds up the same terms in another order.
        """
        branches = 1 if self.config.objective.guidance is None else 2

        def attempt(at_once: int) -> Found:
            self.at_once = at_once
            return run(self.batch.pieces(at_once, branches))

        return with_less(attempt, self.at_once, branches, tries=2)

    def _asked(self, pieces: list[Batch]) -> Lesson:
        if len(pieces) == 1:
            wanted = self._wanted(pieces[0])
            return Lesson(wanted=wanted, power=self._power(wanted[1]))
        # what is said of a piece is forgotten, and asked for again when it is learned from
        if not self.config.objective.features:
            return Lesson()
        powers = [block_power(self._wanted(piece)[1]) * self._share(piece) for piece in pieces]
        return Lesson(power=torch.stack(powers).sum(0))

    def _learned(self, lesson: Lesson, pieces: list[Batch]) -> None:
        self.optimizer.zero_grad(set_to_none=False)
        for piece in pieces:
            wanted = lesson.wanted if len(pieces) == 1 else None
            if wanted is None and self.config.objective.distils:
                wanted = self._wanted(piece)
            loss = self._loss(piece, Lesson(wanted=wanted, power=lesson.power))
            # the masters alone: the student's other parameters are not trained
            (loss * self._share(piece)).backward(inputs=list(self.masters.values()))

    def _share(self, piece: Batch) -> float:
        return len(piece) / len(self.batch)

    def _power(self, blocks: list[Tensor]) -> Tensor | None:
        return block_power(blocks) if self.config.objective.features else None

    @torch.no_grad()
    def _wanted(self, batch: Batch) -> tuple[Tensor, list[Tensor]]:
        with mixed_precision(self.device):
            return predict(self.teacher, batch, {})

    def _loss(self, batch: Batch, lesson: Lesson) -> Tensor:
        with mixed_precision(self.device):
            mine = predict(self.student, batch, self.masters)
        return training_loss(
            mine,
            lesson.wanted,
            self.config.objective,
            target=batch.target,
            weights=self.weights[batch.timesteps],
            power=lesson.power,
        )

    @torch.no_grad()
    def choose_codes(self) -> None:
        """Give every sub-vector the codeword nearest to its latent."""
        for name, search in self.searches.items():
            entries = self.masters[self.pools[name]]
            search.choose_(self.masters[f"{name}.{LATENT}"], entries)

    @torch.no_grad()
    def judge(self, batch: Batch) -> DistillationLoss:
        """Measure the distance from the teacher of the state as it would be stored."""
        masters = rounded(self.student, self.masters)
        return judge(self.student, self.teacher, batch, masters)

    @torch.no_grad()
    def store_(self) -> None:
        """Put the present state into the student: rounded masters, packed codes."""
        store_masters_(self.student, self.masters)
        for search in self.searches.values():
            search.layer.set_codes_(search.codes)
        self.show_codes_()

    @torch.no_grad()
    def show_codes_(self) -> None:
        """Let the student's layers decode the present codes, whatever codes they store."""
        for search in self.searches.values():
            search.show_()

    @torch.no_grad()
    def reread_codes_(self) -> None:
        """Take over the codes that the student's layers store."""
        for search in self.searches.values():
            search.codes.copy_(search.layer.codes())
        self.show_codes_()

    def state(self) -> dict[str, Tensor]:
        """Return everything that the next step depends on, but for the random generator."""
        state = {f"master.{name}": master.detach() for name, master in self.masters.items()}
        state |= {f"codes.{name}": search.codes for name, search in self.searches.items()}
        for name, master in self.masters.items():
            moments: Mapping[str, Tensor] = self.optimizer.state.get(master, {})
            state |= {f"adam.{key}.{name}": value for key, value in moments.items()}
        return state | {"taken": torch.tensor(self.taken)}

    @torch.no_grad()
    def load_state_(self, state: Mapping[str, Tensor]) -> None:
        """Continue from what :meth:`state` returned.

        Raises
        ------
        CheckpointError
            If it is the state of another model or run.
        """
        if _shapes(state) != _shapes(self.state()):
            raise CheckpointError("the saved state belongs to another model or to other settings")
        for name, master in self.masters.items():
            master.copy_(state[f"master.{name}"])
            kept = self.optimizer.state[master]
            for key in ("step", "exp_avg", "exp_avg_sq"):
                value = state.get(f"adam.{key}.{name}")
                if value is not None:  # before the first step there is none
                    # in place where there is one: a captured graph knows it
                    mine = kept.setdefault(key, torch.empty_like(value, device=self.device))
                    mine.copy_(value)
        for name, search in self.searches.items():
            search.codes.copy_(state[f"codes.{name}"])
        self.taken = int(state["taken"])
        self.show_codes_()

    @torch.no_grad()
    def follow_leader_(self) -> None:
        """Take over the state of the team's leader.

        All compute the same; but what a GPU adds up in another order each time would let them part.
        """
        if self.team.world > 1:
            state = self.state()
            del state["taken"]
            self.team.follow_(list(state.values()))
            self.show_codes_()

    def _prepared(self) -> tuple[Work, Work]:
        """Return a step, and a choice of codes; the warm-up of graphs changes nothing."""
        parts = Parts(ask=self._ask, learn=self._learn, move=lambda: self.optimizer.step())
        models = (self.student, self.teacher) if self.captured and self.config.compile else ()
        with compiled_blocks(*models):  # at rate zero
            if self.team.world == 1:
                train = lone_step(parts, capture=self.captured)
            else:
                trained = list(self.masters.values())
                train = team_step(parts, trained, self.team, capture=self.captured)
        if not self.captured:
            return train, self.choose_codes
        for state in self.optimizer.state.values():
            for value in state.values():
                value.zero_()
        return train, self.choose_codes if self.config.latent is None else graph_of(
            self.choose_codes
        )


def _shapes(state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    """Return the shapes of masters and codes; before the first step Adam has no state."""
    return {name: value.shape for name, value in state.items() if not name.startswith("adam.")}
