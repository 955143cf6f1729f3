"""One calibration of each kind, and how near two come that add up in another order."""

from __future__ import annotations

from dataclasses import replace

from dpqlab.calibration import (
    CalibrationConfig,
    EStepSchedule,
    LatentConfig,
    Objective,
    RevivalSchedule,
)
from tests.calibration.conftest import CONFIG, QUICK

SHORT = replace(CONFIG, steps=12, every=4)
SETTINGS: dict[str, CalibrationConfig] = {
    "fixed codes": SHORT,
    "guided": replace(SHORT, objective=Objective(guidance=1.5, ddpm=0.5)),
    "ddpm alone": replace(SHORT, objective=Objective(output=0.0, features=0.0, ddpm=1.0)),
    "one e-step": replace(SHORT, e_step=EStepSchedule(every=99, batches=2, settings=QUICK)),
    "e-steps": replace(SHORT, e_step=EStepSchedule(every=6, batches=2, settings=QUICK)),
    "latents": replace(
        SHORT, latent=LatentConfig(learning_rate=0.02), revival=RevivalSchedule(every=5)
    ),
}
TOLERANCE = 1e-4
"""Of the held-out losses, relative. Gradients are sums of the same terms in another order; Adam
divides small ones by their own size, so that what is lost in rounding moves a codeword."""
AFTER_CHOICES = 5e-3
"""The same where codes are chosen by what was trained: attention sees nothing of the keys' biases,
which rounding alone moves, and the E-step fits the keys' codes to what these leave."""
CHOSEN = ("e-steps", "latents")
