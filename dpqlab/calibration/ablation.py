"""The ablation: which part of the method earns what, a row at a time.

Rows come in chains; each names the row that it changes one thing of. Equal optimizer steps, the
same batches; bits are the ledger's, and differ where the changed thing stores something.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from dpqlab.calibration.config import CalibrationConfig, LatentConfig, Objective
from dpqlab.calibration.presets import BEST, DISTILLED, PAPER, lasting
from dpqlab.core import CodebookCodec, PoolConfig
from dpqlab.errors import ConfigError
from dpqlab.nn.plan import Coding, Plan
from dpqlab.nn.presets import ADALN, preset


@dataclass(frozen=True, kw_only=True)
class AblationRow:
    """One row: a plan, how it is calibrated (None: not at all), and what it changes.

    ``base`` is the row that this one is to be compared with; empty at the head of a chain.
    """

    name: str
    plan: Plan
    config: CalibrationConfig | None
    base: str
    change: str


_PQ = CodebookCodec(d=8, k=256, scope="position", across="kind")
_VQ_SHARED = CodebookCodec(d=8, k=256, scope="layer", across="kind", row_scale=True)
_INDEXED = Coding(codec=_PQ, pool=PoolConfig(budget=0.25, form="indexed"))
_PQ_IN_ADALN = {
    ADALN: CodebookCodec(d=8, k=64, scope="position", across="kind"),
    "*": CodebookCodec(d=8, k=512, scope="layer", across="kind", row_scale=True),
}
_LATENT = LatentConfig(learning_rate=0.01)


def _plan(codec: CodebookCodec | Coding, name: str) -> Plan:
    return Plan.for_blocks(codec, name=name)


def _rows(steps: int) -> list[AblationRow]:
    paper, distilled, best = (lasting(c, steps) for c in (PAPER, DISTILLED, BEST))
    dpq, vq = preset("dpq-1bit"), preset("vq-1bit")
    shared = _plan(_VQ_SHARED, "VQ/kind")
    guided = Objective(guidance=1.5, output=1.0)
    by_hand: list[tuple[str, Plan, CalibrationConfig | None, str, str]] = [
        ("dpq k-means", _plan(_PQ, "PQ/kind"), None, "", "256 codewords a position, no pool"),
        ("dpq pool", _plan(_INDEXED, "indexed"), None, "dpq k-means", "one pool a kind, tables"),
        ("dpq pruned", dpq, None, "dpq k-means", "pruned by usage to a quarter of the codes"),
        ("dpq ddpm", dpq, replace(paper, e_step=None, revival=None), "dpq pruned", "M-step, DDPM"),
        ("dpq distil", dpq, distilled, "dpq ddpm", "distillation in place of the DDPM loss"),
        (
            "dpq distil e-step",
            dpq,
            replace(distilled, e_step=paper.e_step),
            "dpq distil",
            "E-step: codes by output reconstruction",
        ),
        (
            "dpq distil revival",
            dpq,
            replace(distilled, e_step=paper.e_step, revival=paper.revival),
            "dpq distil e-step",
            "dead codewords revived",
        ),
        ("dpq paper", dpq, paper, "dpq ddpm", "E-step and revival: the method of the paper"),
        ("dpq latent", dpq, best, "dpq distil", "codes move with latents"),
        ("vq distil", vq, distilled, "dpq distil", "VQ in place of PQ with a pruned pool"),
        ("vq paper", vq, paper, "dpq paper", "VQ in place of PQ with a pruned pool"),
        ("vq latent", vq, best, "dpq latent", "VQ in place of PQ with a pruned pool"),
        ("best distil", shared, distilled, "vq distil", "codebooks across blocks, row scales"),
        (
            "best latent .01",
            shared,
            replace(distilled, latent=_LATENT),
            "best distil",
            "codes move with latents",
        ),
        ("best latent", shared, best, "best latent .01", "rates: latents 0.03, codewords 0.01"),
        (
            "best-1bit",
            preset("best-1bit"),
            best,
            "best latent",
            "fewer bits for adaLN, more for the rest",
        ),
        (
            "best pq adaln",
            Plan.for_blocks(_PQ_IN_ADALN, name="best-1bit, PQ in adaLN"),
            best,
            "best-1bit",
            "PQ without row scales in adaLN",
        ),
        (
            "best fast latent",
            preset("best-1bit"),
            replace(best, latent=LatentConfig(learning_rate=0.06)),
            "best-1bit",
            "rate of the latents 0.06",
        ),
        (
            "best lazy codes",
            preset("best-1bit"),
            replace(best, latent=LatentConfig(every=4)),
            "best-1bit",
            "codes chosen every 4 steps",
        ),
        (
            "best guided",
            preset("best-1bit"),
            replace(best, objective=guided),
            "best-1bit",
            "output compared after guidance 1.5",
        ),
        (
            "best no features",
            preset("best-1bit"),
            replace(best, objective=Objective(features=0.0)),
            "best-1bit",
            "without the block features",
        ),
        (
            "best revival",
            preset("best-1bit"),
            replace(best, revival=paper.revival),
            "best-1bit",
            "dead codewords revived",
        ),
    ]
    return [
        AblationRow(name=name, plan=plan, config=config, base=base, change=change)
        for name, plan, config, base, change in by_hand
    ]


def ablation_rows(steps: int = 2500) -> dict[str, AblationRow]:
    """Return the rows by name, each calibrated for ``steps`` steps."""
    return {row.name: row for row in _rows(steps)}


def ablation_row(name: str, steps: int = 2500) -> AblationRow:
    """Return one row.

    Raises
    ------
    ConfigError
        If there is no row of that name.
    """
    rows = ablation_rows(steps)
    if name not in rows:
        raise ConfigError(f"no row is called {name!r}: expected one of {', '.join(rows)}")
    return rows[name]
