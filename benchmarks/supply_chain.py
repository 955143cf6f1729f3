"""What dpqlab is installed from: hashes, licences, known vulnerabilities.

    python -m benchmarks.supply_chain [--dry-run]

The audit needs the extra ``release`` and PyPI's list of vulnerabilities. Where it cannot look, that
is recorded as not run, and never as a pass; see :mod:`tools.audit`.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Any

from benchmarks.record import RESULTS, append
from benchmarks.reliability import HELD, NOT_RUN, counted, not_counted, status_of, verdict
from tools import licences
from tools.audit import Audit, audit

SUITE = "reliability-supply"


def hashed_pins(lock: str) -> int:
    r"""How many pins of a lock have at least one SHA-256.

    Examples
    --------
    >>> hashed_pins("a==1 --hash=sha256:" + 64 * "0" + "\nb==2")
    1
    """
    entries = re.split(r"^(?=[a-z0-9-]+==)", lock, flags=re.MULTILINE)
    return sum(re.search(r"--hash=sha256:[0-9a-f]{64}\b", entry) is not None for entry in entries)


def hashes_record() -> dict[str, Any]:
    """Pins of requirements.lock with a hash."""
    text = licences.LOCK.read_text(encoding="utf-8")
    return counted(
        SUITE, "requirements.lock", "pins_with_a_hash", hashed_pins(text), "pins",
        goal=len(licences.pins(text)), higher_is_better=True,
    )  # fmt: skip


def licences_record() -> dict[str, Any]:
    """Packages whose licence is listed and allowed."""
    table = licences.TABLE.read_text(encoding="utf-8")
    listed = [line for line in licences.read_table(table) if (line.name, line.version) in WANTED]
    good = sum(licences.is_allowed(line.name, line.licence) for line in listed)
    return counted(
        SUITE, "licences", "listed_and_allowed", good, "packages",
        goal=len(WANTED), higher_is_better=True, details={"wrong": licences.faults(table)},
    )  # fmt: skip


def audit_record(result: Audit) -> dict[str, Any]:
    """Pins that pip-audit looked up and knows nothing against."""
    record = counted(
        SUITE, "pip-audit", "no_known_vulnerability", result.clean, "pins",
        goal=result.pins, higher_is_better=True, details={"vulnerable": result.vulnerable},
    )  # fmt: skip
    return record if result.reason is None else not_counted(record, NOT_RUN, result.reason)


WANTED = licences.wanted()


def main() -> int:
    """Append three records; 1 when one does not hold, 2 when the audit could not be made."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--dry-run", action="store_true", help="append nothing")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the records go")
    args = parser.parse_args()
    records = [hashes_record(), licences_record(), audit_record(audit(WANTED))]
    for record in records:
        said = f"{record['row']}: {record['value']} of {record['goal']} {record['unit']}"
        print(f"{said}, {verdict(record)}")
        if not args.dry_run:
            append(record, args.results)
    if any(verdict(record) != HELD for record in records if status_of(record) != NOT_RUN):
        return 1
    return 2 if any(status_of(record) == NOT_RUN for record in records) else 0


if __name__ == "__main__":
    sys.exit(main())
