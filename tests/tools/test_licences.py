"""The list of licences is that of the lock, and only what is allowed stands in it."""

from __future__ import annotations

import pytest

from tools import licences
from tools.licences import Line

TEXT = licences.TABLE.read_text(encoding="utf-8")


def test_every_locked_package_has_an_allowed_licence():
    assert licences.faults(TEXT) == []


def test_the_file_is_what_the_tool_would_write():
    assert licences.render(licences.collect(licences.read_table(TEXT), {})) == TEXT


@pytest.mark.parametrize(
    ("before", "after", "complaint"),
    [
        ("| torch | ", "| torched | ", "torch 2.13.0 is locked and not listed"),
        ("| numpy | 2", "| numpy | 1", "is listed and not locked"),
    ],
)
def test_a_list_of_another_lock_is_refused(before, after, complaint):
    assert before in TEXT
    found = licences.faults(TEXT.replace(before, after))
    assert any(complaint in fault for fault in found)


def test_a_licence_that_is_not_what_the_package_says_is_named():
    (line,) = (line for line in licences.read_table(TEXT) if line.name == "numpy")
    wrong = TEXT.replace(line.text, line.text.replace(line.licence, "GPL-3.0-only"))
    said, refused = licences.faults(wrong)
    assert said.startswith("numpy says 'BSD-3-Clause")
    assert refused == "numpy has the licence 'GPL-3.0-only', which is not allowed"


@pytest.mark.parametrize(
    ("licence", "allowed"),
    [
        ("MIT", True),
        ("MPL-2.0 AND (Apache-2.0 OR MIT)", True),
        ("Apache-2.0 WITH LLVM-exception", True),
        ("", False),
        ("MIT AND GPL-3.0-only", False),
        ("LGPL-2.1-or-later", False),
        ("LicenseRef-NVIDIA-Proprietary", False),
    ],
)
def test_allowed_means_every_part_of_an_expression(licence, allowed):
    assert licences.is_allowed("somebody", licence) is allowed


@pytest.mark.parametrize(
    ("headers", "classifiers", "licence"),
    [
        ({"License-Expression": "MIT OR AFL-2.1", "License": "MIT"}, [], "MIT OR AFL-2.1"),
        ({"License": "Apache License, Version 2.0"}, [], "Apache-2.0"),
        ({"License": "Copyright (c) 2001"}, ["License :: OSI Approved :: BSD License"], "BSD"),
        (
            {"License": "UNKNOWN"},
            ["License :: OSI Approved :: ISC License (ISCL)", "Topic :: Text"],
            "ISC",
        ),
        ({"License": "My own terms"}, [], ""),
        ({}, ["License :: Other/Proprietary License"], ""),
    ],
)  # fmt: skip
def test_metadata_are_read_in_the_order_of_their_precision(headers, classifiers, licence):
    assert licences.stated_licence(headers, classifiers) == licence


def test_what_belongs_to_another_platform_is_kept_while_its_version_stays():
    pins = (pin for pin in licences.pins() if pin[0] in ("appnope", "pywinpty"))
    name, version = next(pin for pin in pins if licences.installed_licence(*pin) is None)
    kept = Line(name=name, version=version, licence="MIT")
    assert kept in licences.collect([kept], {})
    stale = Line(name=name, version="0.1", licence="MIT")
    assert Line(name=name, version=version, licence="") in licences.collect([stale], {})
