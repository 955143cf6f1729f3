"""The licences of all that set-up installs: docs/licences.md, one line a locked package.

    python -m tools.licences           fail when the list is not that of requirements.lock
    python -m tools.licences --write   bring it up to date, after `make lock` and `make setup`

A licence is what the installed package says of itself. For a package that belongs to another
platform the line that stands there is kept while the version is the same; for a new version, give
its licence by ``--given NAME=LICENCE`` after reading it on the package's own page.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tools.lock import LOCK, ROOT, name_of, read_pyproject

TABLE = ROOT / "docs" / "licences.md"
ALLOWED = frozenset(
    {
        "0BSD", "AFL-2.1", "Apache-2.0", "BSD", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0",
        "CC0-1.0", "CNRI-Python", "ISC", "LLVM-exception", "MIT", "MIT-0", "MIT-CMU", "MPL-2.0",
        "PSF-2.0", "Zlib",
    }
)  # fmt: skip
"""What may stand in a licence: permissive ones, and MPL-2.0, which binds its own files."""
EXCEPTIONS = {"nvidia-cuda-nvrtc": "LicenseRef-NVIDIA-Proprietary"}
"""Packages under other terms. NVIDIA's compiler (CUDA's EULA): for tests only, not shipped."""
# What packages write that state no SPDX expression; bare "BSD" stands for two or three clauses.
SPELLINGS = {
    "apache": "Apache-2.0",
    "bsd 2-clause": "BSD-2-Clause",
    "bsd-2-clause": "BSD-2-Clause",
    "bsd 3-clause": "BSD-3-Clause",
    "bsd-3-clause": "BSD-3-Clause",
    "bsd": "BSD",
    "isc": "ISC",
    "the mit": "MIT",
    "mit license": "MIT",
    "mozilla public license 2.0": "MPL-2.0",
    "python software foundation": "PSF-2.0",
}
HEADER = """\
# Licences of the dependencies

All that set-up installs, as pinned in `requirements.lock`, and torch: {count} of them. Made by
`python -m tools.licences --write` from what the packages say of themselves; a test holds it to
the lock and to a list of allowed licences. None of them is part of this repository or of dpqlab's
wheel; what they bundle themselves (JavaScript, C libraries) is listed inside them. dpqlab is
Apache-2.0; the licences of the bundled models stand in their model cards.

| package | version | licence | asked for by |
| --- | --- | --- | --- |
"""


@dataclass(frozen=True, kw_only=True, order=True)
class Line:
    """One package of the table; ``extras`` names what asks for it, empty for what others need."""

    name: str
    version: str
    licence: str
    extras: str = ""

    @property
    def text(self) -> str:
        """The line in Markdown."""
        return f"| {self.name} | {self.version} | {self.licence} | {self.extras} |"


def pins(lock: str | None = None) -> list[tuple[str, str]]:
    """Name and version of every pin in the lock, in its order; a name may stand there twice."""
    text = LOCK.read_text(encoding="utf-8") if lock is None else lock
    return re.findall(r"^([a-z0-9-]+)==([^\s;]+)", text, re.MULTILINE)


def wanted() -> list[tuple[str, str]]:
    """The pins of the lock, and torch, which is pinned beside it; sorted."""
    return sorted([*pins(), ("torch", read_pyproject()["tool"]["dpqlab"]["torch"])])


def normal(stated: str) -> str:
    """The SPDX spelling of what a package states.

    Examples
    --------
    >>> normal("Apache License, Version 2.0"), normal("MIT OR AFL-2.1")
    ('Apache-2.0', 'MIT OR AFL-2.1')
    """
    first = stated.strip().splitlines()[0].strip() if stated.strip() else ""
    if first in ALLOWED or re.search(r" (?:AND|OR|WITH) ", first):
        return first
    found = [spdx for start, spdx in SPELLINGS.items() if first.lower().startswith(start)]
    return found[0] if found else ""


def stated_licence(about: Mapping[str, str], classifiers: Iterable[str]) -> str:
    """What the metadata of a package state: an expression, a short text, else classifiers."""
    expression = about.get("License-Expression", "")
    if expression:
        return expression
    text = normal(about.get("License", ""))
    if text:
        return text
    named = (c.rpartition("::")[2].strip() for c in classifiers if c.startswith("License ::"))
    return " AND ".join(dict.fromkeys(filter(None, map(normal, named))))


def installed_licence(name: str, version: str) -> str | None:
    """The licence of `name` as installed here; None where this version is not installed."""
    try:
        about = importlib.metadata.metadata(name)
    except importlib.metadata.PackageNotFoundError:
        return None
    # a build such as 2.13.0+cpu is that version
    if about["Version"].partition("+")[0] != version:
        return None
    headers = {key: about[key] for key in ("License-Expression", "License") if key in about}
    return stated_licence(headers, about.get_all("Classifier") or []) or EXCEPTIONS.get(name, "")


def is_allowed(name: str, licence: str) -> bool:
    """Whether every identifier of `licence` is allowed, or `name` is a named exception."""
    identifiers = re.findall(r"[\w.+-]+", re.sub(r"\b(?:AND|OR|WITH)\b", " ", licence))
    return EXCEPTIONS.get(name) == licence or (
        bool(identifiers) and ALLOWED.issuperset(identifiers)
    )


def read_table(text: str) -> list[Line]:
    """The lines of a table as :func:`render` writes it."""
    found = re.findall(r"^\| ([a-z0-9-]+) \| (\d\S*) \| (.*?) \| (.*?) \|$", text, re.MULTILINE)
    return [Line(name=n, version=v, licence=lic, extras=e) for n, v, lic, e in found]


def askers() -> dict[str, str]:
    """What asks for each direct dependency: extras, or ``core`` for dpqlab itself."""
    project = read_pyproject()["project"]
    found: dict[str, list[str]] = {}
    for group, needs in (
        {"core": project["dependencies"]} | project["optional-dependencies"]
    ).items():
        for need in needs:
            found.setdefault(name_of(need), []).append(group)
    return {name: ", ".join(groups) for name, groups in found.items()}


def collect(before: Iterable[Line], given: Mapping[str, str]) -> list[Line]:
    """A line for every package that is wanted; the licence is empty where nobody says it."""
    kept = {(line.name, line.version): line.licence for line in before}
    extras = askers()
    return [
        Line(
            name=name,
            version=version,
            licence=given.get(name)
            or installed_licence(name, version)
            or kept.get((name, version), ""),
            extras=extras.get(name, ""),
        )
        for name, version in wanted()
    ]


def render(lines: list[Line]) -> str:
    """The whole file."""
    return HEADER.format(count=len(lines)) + "".join(line.text + "\n" for line in lines)


def faults(text: str) -> list[str]:
    """What is wrong with the table `text`: packages missing or too many, licences not allowed."""
    lines = read_table(text)
    have, need = {(line.name, line.version) for line in lines}, set(wanted())
    wrong = [f"{n} {v} is locked and not listed" for n, v in sorted(need - have)]
    wrong += [f"{n} {v} is listed and not locked" for n, v in sorted(have - need)]
    for line in lines:
        here = installed_licence(line.name, line.version)
        if here is not None and here != line.licence:
            wrong.append(f"{line.name} says {here!r} of itself, the list {line.licence!r}")
        if not is_allowed(line.name, line.licence):
            wrong.append(f"{line.name} has the licence {line.licence!r}, which is not allowed")
    return wrong


def main(arguments: list[str] | None = None) -> int:
    """Check or write the table."""
    parser = argparse.ArgumentParser(prog="python -m tools.licences", description=__doc__)
    parser.add_argument("--write", action="store_true", help="bring docs/licences.md up to date")
    parser.add_argument("--given", action="append", default=[], metavar="NAME=LICENCE")
    chosen = parser.parse_args(arguments)
    text = TABLE.read_text(encoding="utf-8") if TABLE.exists() else ""
    if chosen.write:
        given = dict(pair.split("=", 1) for pair in chosen.given)
        text = render(collect(read_table(text), given))
        Path(TABLE).write_text(text, encoding="utf-8", newline="\n")
    wrong = faults(text)
    print("\n".join(wrong) or f"{len(read_table(text))} licences, all of them allowed")
    if wrong:
        print("run: python -m tools.licences --write", file=sys.stderr)
    return bool(wrong)


if __name__ == "__main__":
    raise SystemExit(main())
