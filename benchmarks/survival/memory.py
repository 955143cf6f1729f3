"""Memory that runs out: in k-means, in decoding, in a calibration step, in sampling."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.survival.disks import Trouble, judged
from benchmarks.survival.faults import Fault
from benchmarks.survival.jobs import Job, Place, Whole

K_MEANS = "dpqlab.kernels.numba_kmeans:kmeans"
DECODE = "dpqlab.kernels.ops:decode"
STEP = "dpqlab.calibration.distiller:Distiller.step"
FORWARD = "diffusers:DiTTransformer2DModel.forward"
PHASES: dict[str, tuple[str, ...]] = {
    "compress": (K_MEANS,),
    "prune": (K_MEANS, FORWARD),
    "calibrate": (STEP, FORWARD, DECODE),
    "evaluate": (FORWARD, DECODE),
    "trace": (FORWARD, DECODE),
    "sample": (FORWARD, DECODE),
    "train": (FORWARD,),
}
CALLS = (1, 3)
"""Which calls of a phase fail, one attempt each."""


def starved(place: Place, job: Job, base: Whole) -> Iterator[Trouble]:
    """Let a call of each phase fail once, then go on with the job."""
    for phase in PHASES[job.name]:
        for call in CALLS:
            place.fresh()
            outcome = place.run(job, fault=Fault(kind="memory", at=phase, step=call))
            yield judged(place, job, base, outcome, f"out of memory in call {call} of {phase}")
