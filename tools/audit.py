"""Known vulnerabilities of all that set-up installs, by pip-audit, with proof that it looked.

    python -m tools.audit

pip-audit says "No known vulnerabilities found" and succeeds when it could look up nothing at all.
So first, and again in the same run as the pins, it is given a *canary*: a release with published
vulnerabilities, which is not installed. An audit counts when the canary was found and every pin of
requirements.lock, and torch, was looked up; anything else is "not run", which is not a pass.
Exit codes: 0 all clean, 1 something vulnerable, 2 not run. Needs the extra ``release`` and a
network.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tools.licences import wanted

CANARY = ("django", "2.2.1")
"""Has dozens of published vulnerabilities, and is no dependency: a test holds that."""
PATIENCE_S = 900
Pin = tuple[str, str]
Look = Callable[[Sequence[Pin]], dict[str, Any]]


class NotRunError(Exception):
    """The audit could not be made; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Audit:
    """What became of an audit.

    ``vulnerable`` gives the published ids by ``name version``; ``reason`` is None when the audit
    counts, else why it does not.
    """

    pins: int
    clean: int = 0
    vulnerable: dict[str, list[str]] = field(default_factory=dict)
    reason: str | None = None


def sheets(pins: Sequence[Pin]) -> list[list[Pin]]:
    """The pins in lists without a name twice: pip-audit refuses two versions of one name.

    Examples
    --------
    >>> sheets([("a", "1"), ("a", "2"), ("b", "1")])
    [[('a', '1'), ('b', '1')], [('a', '2')]]
    """
    made: list[dict[str, str]] = []
    for name, version in dict.fromkeys(pins):
        sheet = next((sheet for sheet in made if name not in sheet), None)
        if sheet is None:
            made.append(sheet := {})
        sheet[name] = version
    return [list(sheet.items()) for sheet in made]


def pip_audit(pins: Sequence[Pin]) -> dict[str, Any]:
    """The JSON that pip-audit prints about `pins`; markers are left out, so that none is skipped.

    Raises
    ------
    NotRunError
        When it is not installed, does not end, or prints something else.
    """
    if importlib.util.find_spec("pip_audit") is None:
        raise NotRunError("pip-audit is not installed: pip install 'dpqlab[release]'")
    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder, "pins.txt")
        listed.write_text("".join(f"{n}=={v}\n" for n, v in pins), encoding="utf-8")
        command = [sys.executable, "-m", "pip_audit", "--requirement", str(listed)]
        command += ["--no-deps", "--disable-pip", "--format", "json", "--progress-spinner", "off"]
        try:
            finished = subprocess.run(
                command, check=False, capture_output=True, text=True, timeout=PATIENCE_S
            )
        except subprocess.TimeoutExpired as error:
            raise NotRunError(f"pip-audit did not end within {PATIENCE_S} s") from error
    try:
        answer = json.loads(finished.stdout)
    except ValueError as error:
        said = finished.stderr.strip().splitlines()
        raise NotRunError(f"pip-audit gave no answer: {said[-1] if said else 'silence'}") from error
    if not isinstance(answer, dict) or not isinstance(answer.get("dependencies"), list):
        raise NotRunError("pip-audit answered in a form that is not known here")
    return answer


def looked_up(pins: Sequence[Pin], look: Look) -> dict[Pin, list[str]]:
    """Ids of the vulnerabilities of every one of `pins`.

    Raises
    ------
    NotRunError
        When one of them was skipped or is missing in the answer.
    """
    found: dict[Pin, list[str]] = {}
    for dependency in look(pins)["dependencies"]:
        if "skip_reason" in dependency:
            raise NotRunError(f"pip-audit could not look up a pin: {dependency['skip_reason']}")
        pin = (dependency["name"], dependency["version"])
        found[pin] = [vulnerability["id"] for vulnerability in dependency["vulns"]]
    missing = [pin for pin in pins if pin not in found]
    if missing:
        raise NotRunError(
            f"{len(missing)} pins were not looked up, the first is {'=='.join(missing[0])}"
        )
    return found


def audit(pins: Sequence[Pin], look: Look = pip_audit) -> Audit:
    """Audit `pins`; the canary alone first, since without it nothing else need be asked."""
    vulnerable: dict[str, list[str]] = {}
    try:
        for sheet in ([], *sheets(pins)):
            found = looked_up([CANARY, *sheet], look)
            if not found[CANARY]:
                raise NotRunError(
                    f"the canary {'=='.join(CANARY)} was not found: it looked at nothing"
                )
            vulnerable |= {" ".join(pin): found[pin] for pin in sheet if found[pin]}
    except NotRunError as error:
        return Audit(pins=len(pins), reason=str(error))
    return Audit(pins=len(pins), clean=len(pins) - len(vulnerable), vulnerable=vulnerable)


def main() -> int:
    """Audit the lock; say what was found."""
    result = audit(wanted())
    if result.reason is not None:
        print(f"NOT RUN: {result.reason}", file=sys.stderr)
        return 2
    for pin, ids in result.vulnerable.items():
        print(f"{pin}: {', '.join(ids)}")
    print(f"{result.clean} of {result.pins} pins have no known vulnerability (canary found)")
    return int(bool(result.vulnerable))


if __name__ == "__main__":
    raise SystemExit(main())
