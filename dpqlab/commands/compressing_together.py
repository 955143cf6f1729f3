"""Layers of a folder compressed by several processes, each its part, into one journal.

Whoever leads then goes on with the journal as with that of a run that was stopped: the result is
the one of a single process, byte for byte.
"""

from __future__ import annotations

from dpqlab.checkpoint.dense import open_dense
from dpqlab.checkpoint.shared_journal import shared_journal
from dpqlab.checkpoint.streaming import StreamSettings, stream_steps
from dpqlab.commands.compressing import CompressJob, moments_of
from dpqlab.commands.loading import quieten
from dpqlab.commands.terminal import Terminal
from dpqlab.distributed import Team


def compress_together(job: CompressJob, terminal: Terminal, team: Team) -> int:
    """Write all layers into the journal of a job; return how many it had already.

    All processes of the team call this. What they write to must be one folder for all of them.

    Raises
    ------
    ConfigError
        If there is a journal that must not be continued, or the plan cannot work.
    CheckpointError
        If the source is damaged, or the journal cannot be written.
    """
    quieten()
    if team.leads:
        job.out.parent.mkdir(parents=True, exist_ok=True)
    dense = open_dense(job.folder)
    options = {"resume": job.resume, "overwrite": job.overwrite}
    with shared_journal(job.out, job.identity, team, **options) as journal:
        model = dense.skeleton()
        if team.leads:  # one measures, the others read it
            moments_of(job, dense, model, journal, terminal)
        team.meet()
        moments = moments_of(job, dense, model, journal, terminal)
        settings = StreamSettings(seed=job.seed, moments=moments, device=job.device, team=team)
        stream = stream_steps(model, dense, job.plan, journal, settings)
        before = round(team.total(stream.resumed))
        terminal.say(
            f"{round(team.total(stream.total))} layers on {team.world} processes, "
            f"{stream.total} of them on this one; {before} were in {journal.folder}"
        )
        left = max(1, stream.weights_left)
        with terminal.progress(f"Compressing with {job.plan.name}", 1) as meter:
            for record in stream.steps:
                if record.index >= stream.resumed:
                    meter.advance(record.ledger.weights / left, record.name)
        team.meet()
    return before
