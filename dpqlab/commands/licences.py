"""Licences of models: what their cards name, and what a card may claim."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

LONGEST_LICENCE = 200  # characters
_IDENTIFIER = re.compile(r"[a-z0-9][a-z0-9.\-]{0,63}")
_LICENCE_LINE = re.compile(r"(license|license_name):[ \t]*[\"']?([^\"'#\r\n]+?)[\"']?[ \t]*(#.*)?")


def licence_in(card: str) -> str | None:
    r"""Return the licence that the YAML head of a model card names, None if it names none.

    Examples
    --------
    >>> licence_in("---\nlicense: cc-by-nc-4.0\n---\n")
    'cc-by-nc-4.0'
    """
    head = re.match(r"---[ \t]*\r?\n(.*?)^---", card, re.DOTALL | re.MULTILINE)
    if head is None:
        return None
    lines = (_LICENCE_LINE.fullmatch(line) for line in head[1].splitlines())
    found = {line[1]: line[2] for line in lines if line is not None}
    licence = found.get("license")
    return found.get("license_name", licence) if licence == "other" else licence


def licence_of(folder: Path) -> str | None:
    """Return the licence that the model card of a folder names, None if it names none."""
    try:
        return licence_in((folder / "README.md").read_text("utf-8"))
    except (OSError, UnicodeDecodeError):
        return None


def licence_text(text: str) -> str:
    """Check what is given as ``--licence``: one line that says something."""
    text = text.strip()
    if not text or len(text) > LONGEST_LICENCE or not text.isprintable():
        raise argparse.ArgumentTypeError(
            f"{text!r} is no licence: expected its name on one line, such as cc-by-nc-4.0"
        )
    return text


def licence_field(licence: str | None) -> str:
    """Return the lines of a YAML head that name a licence, as model hubs read them."""
    if licence is None:
        return ""
    if _IDENTIFIER.fullmatch(licence):
        return f"license: {licence}\n"
    return f"license: other\nlicense_name: {json.dumps(licence)}\n"
