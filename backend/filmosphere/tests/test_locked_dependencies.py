"""The dependencies that the image installs: exact versions, and the hash of each file."""

import re

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tools.harness.server import PROJECT

REQUIREMENTS = PROJECT / "requirements"
LOCK = (REQUIREMENTS / "runtime.lock").read_text()


def requirements_in(text):
    """Return the requirements of a file without comments, options and hashes."""
    lines = re.sub(r"\s*\\\n\s+--hash=\S+|\s*#.*|^-.*", "", text, flags=re.MULTILINE)
    return [Requirement(line) for line in lines.splitlines() if line]


LOCKED = requirements_in(LOCK)
CONSTRAINTS = requirements_in((REQUIREMENTS / "constraints.txt").read_text())


def versions_of(name, requirements):
    return {str(each.specifier) for each in requirements if canonicalize_name(each.name) == name}


@pytest.mark.parametrize("locked", LOCKED, ids=lambda each: f"{each.name}{each.specifier}")
def test_a_locked_version_is_that_of_the_constraints(locked):
    assert str(locked.specifier) in versions_of(canonicalize_name(locked.name), CONSTRAINTS)


def test_each_dependency_of_the_service_is_locked():
    needed = requirements_in((REQUIREMENTS / "runtime.txt").read_text())

    locked = {canonicalize_name(each.name) for each in LOCKED}
    assert len(needed) > 10
    assert {canonicalize_name(each.name) for each in needed} <= locked


def test_each_locked_file_has_a_hash_and_none_has_an_address():
    entries = re.split(r"^(?=\w)", LOCK, flags=re.MULTILINE)[1:]

    assert [entry for entry in entries if "--hash=sha256:" not in entry] == []
    assert re.findall(r"\S*(?:://|index-url|find-links|/)\S*", LOCK) == []
