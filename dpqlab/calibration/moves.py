"""Codes chosen anew and dead codewords revived, in the middle of a calibration."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dpqlab.calibration.batch import Batch
from dpqlab.calibration.distiller import Distiller
from dpqlab.calibration.estep import EStepConfig, assign_codes
from dpqlab.calibration.masters import LATENT
from dpqlab.calibration.revival import RevivalConfig, revive
from dpqlab.core import Encoded, Pool, split


def reassign_(distiller: Distiller, batches: Sequence[Batch], config: EStepConfig) -> None:
    """Choose all codes again by output reconstruction, for the present codewords.

    The student serves as scratch: it holds the present state afterwards. In a team the batches are
    this process's part.
    """
    distiller.store_()
    student, teacher = distiller.student, distiller.teacher
    for _ in assign_codes(student, teacher, batches, config, distiller.team):
        pass
    distiller.reread_codes_()


@torch.no_grad()
def revive_(distiller: Distiller, config: RevivalConfig, generator: torch.Generator) -> int:
    """Restart dead codewords at badly served sub-vectors; return how many.

    What is to be served are the latents, or without them the teacher's weights, in units of the
    row scales. A codeword that starts again has no momentum. A pool that several layers share by
    tables of their own is left alone: a restart that helps one of them may harm the others.
    """
    sharing: dict[str, list[str]] = {}
    for name, pool in distiller.pools.items():
        sharing.setdefault(pool, []).append(name)
    count = 0
    for pool, names in sharing.items():
        if len(names) > 1 and distiller.searches[names[0]].layer.table is not None:
            continue
        count += _revive_pool_(distiller, pool, names, config, generator)
    return count


def _revive_pool_(
    distiller: Distiller,
    pool: str,
    names: list[str],
    config: RevivalConfig,
    generator: torch.Generator,
) -> int:
    master = distiller.masters[pool]
    searches = [distiller.searches[name] for name in names]
    layer = searches[0].layer
    # where all positions share a codebook, layers may differ in width: a sub-vector makes a row
    columns = 1 if len(layer.base) == 2 else layer.positions
    points, mass = zip(*(_served(distiller, name) for name in names), strict=True)
    codes = [search.codes.reshape(-1, columns) for search in searches]
    weight = torch.cat([part.reshape(-1, columns * layer.codec.d) for part in points])
    encoded = Encoded(
        codes=torch.cat(codes),
        pool=Pool(entries=master.detach(), base=layer.base, table=layer.table),
        scope_of=layer.scope_of[:columns],
        scale=None,
        shape=(weight.shape[0], weight.shape[1]),
    )
    found = revive(
        weight,
        encoded,
        generator=generator,
        sample_weights=torch.cat([part.reshape(-1, columns) for part in mass]),
        config=config,
    )
    if not len(found.revived):
        return 0
    master[found.revived] = found.entries[found.revived]
    for value in distiller.optimizer.state[master].values():
        if value.shape == master.shape:
            value[found.revived] = 0
    parts = found.codes.split([len(part) for part in codes])
    for search, part in zip(searches, parts, strict=True):
        search.codes.copy_(part.view_as(search.codes))
        search.show_()
    return len(found.revived)


def _served(distiller: Distiller, name: str) -> tuple[Tensor, Tensor]:
    """Return what a layer's codewords should serve, and what an error counts in weights.

    Sub-vectors (out, m, d) in units of the row scale, and the square of that scale (out, m).
    """
    latent, scale = (distiller.masters.get(f"{name}.{part}") for part in (LATENT, "scale"))
    if latent is not None:
        points = latent.detach()
    else:
        weight = distiller.teacher.get_parameter(f"{name}.weight").detach().float()
        points = split(weight, distiller.searches[name].layer.codec.d)
        if scale is not None:
            apart = scale.detach()[:, None, None]
            points = torch.where(apart != 0, points / apart, 0.0)
    if scale is None:
        return points, points.new_ones(points.shape[:2])
    return points, scale.detach().square()[:, None].expand(points.shape[:2])
