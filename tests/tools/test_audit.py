"""An audit counts only when it has proved that it looked at every pin."""

from __future__ import annotations

import pytest

from tools import audit
from tools.licences import wanted

PINS = [("a", "1"), ("a", "2"), ("b", "3")]


def answer(pins, *, vulnerable=(), skipped=(), left_out=()):
    """What pip-audit would print, in its form, had it known about `vulnerable`."""
    made = []
    for name, version in pins:
        if name in skipped:
            made.append({"name": name, "skip_reason": f"Dependency not found on PyPI: {name}"})
        elif name not in left_out:
            ids = [{"id": "CVE-1"}] if name in vulnerable else []
            made.append({"name": name, "version": version, "vulns": ids})
    return {"dependencies": made, "fixes": []}


def audited(**how):
    asked = []

    def look(pins):
        asked.append(list(pins))
        return answer(pins, **how)

    return audit.audit(PINS, look), asked


def test_all_clean_when_only_the_canary_is_found():
    result, asked = audited(vulnerable={"django"})
    assert result == audit.Audit(pins=3, clean=3)
    assert asked == [
        [audit.CANARY],
        [audit.CANARY, ("a", "1"), ("b", "3")],
        [audit.CANARY, ("a", "2")],
    ]


def test_what_is_vulnerable_is_named():
    result, _ = audited(vulnerable={"django", "b"})
    assert result.vulnerable == {"b 3": ["CVE-1"]}
    assert result.clean == 2


@pytest.mark.parametrize(
    ("how", "reason", "runs"),
    [
        ({}, "canary django==2.2.1 was not found", 1),
        ({"skipped": {"django"}}, "not look up a pin: Dependency not found on PyPI: django", 1),
        ({"vulnerable": {"django"}, "skipped": {"b"}}, "not look up a pin: Dependency", 2),
        ({"vulnerable": {"django"}, "left_out": {"b"}}, "1 pins were not looked up", 2),
    ],
)
def test_an_audit_that_did_not_look_is_no_pass(how, reason, runs):
    result, asked = audited(**how)
    assert reason in result.reason
    assert result.clean == 0
    assert len(asked) == runs, "nothing more is asked once it is clear that nothing answers"


def test_the_canary_is_no_dependency():
    assert audit.CANARY[0] not in dict(wanted())


def test_every_pin_of_the_lock_lands_on_one_sheet():
    sheets = audit.sheets(wanted())
    assert sorted(pin for sheet in sheets for pin in sheet) == sorted(set(wanted()))
    assert all(len(dict(sheet)) == len(sheet) for sheet in sheets)


def test_without_pip_audit_it_says_how_to_get_it(monkeypatch, capsys):
    monkeypatch.setattr(audit.importlib.util, "find_spec", lambda name: None)
    assert audit.main() == 2
    assert "NOT RUN: pip-audit is not installed" in capsys.readouterr().err
