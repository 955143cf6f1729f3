"""One journal that several processes write to."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dpqlab.checkpoint.journal import Journal, journal_folder, open_journal
from dpqlab.distributed import Team


@contextmanager
def shared_journal(
    target: Path,
    identity: Mapping[str, Any],
    team: Team,
    *,
    resume: bool = False,
    overwrite: bool = False,
) -> Generator[Journal]:
    """Open a journal for a team: the leader holds its lock while the others write to it too.

    They must see one folder, and meet before the leader's block ends. Parameters and errors are
    those of :func:`~dpqlab.checkpoint.journal.open_journal`, which the leader alone raises.
    """
    if not team.leads:
        key = team.agreed_text("")
        yield Journal(folder=journal_folder(target), key=key, continued=True)
        return
    with open_journal(target, identity, resume=resume, overwrite=overwrite) as journal:
        team.agreed_text(journal.key)
        yield journal
