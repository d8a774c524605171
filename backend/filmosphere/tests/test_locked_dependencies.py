"""The dependencies that the image installs: exact versions, and the hash of each file."""

import ast
import re
import sys
from importlib.metadata import packages_distributions

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tools.harness.server import BACKEND, PROJECT

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


def test_each_package_that_the_service_imports_is_declared():
    text = "".join((REQUIREMENTS / name).read_text() for name in ("runtime.txt", "otel.txt"))
    # An extra, such as drf-spectacular[sidecar], is a package of its own.
    declared = {
        canonicalize_name("-".join([each.name, *extra]))
        for each in requirements_in(text)
        for extra in ([], each.extras)
    }
    known = sys.stdlib_module_names | {path.stem for path in BACKEND.iterdir()}

    distributions = packages_distributions()
    undeclared = [
        package
        for package in sorted(imported_packages() - known)
        if not declared & {canonicalize_name(name) for name in distributions[package]}
    ]
    assert undeclared == []


def imported_packages():
    """The outermost packages that the service imports, without tests and the sandbox."""
    names = set()
    for path in BACKEND.rglob("*.py"):
        if {"tests", "sandbox"} & set(path.parts) or path.name == "conftest.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names.add(node.module)
    return {name.partition(".")[0] for name in names}


def test_each_locked_file_has_a_hash_and_none_has_an_address():
    entries = re.split(r"^(?=\w)", LOCK, flags=re.MULTILINE)[1:]

    assert [entry for entry in entries if "--hash=sha256:" not in entry] == []
    assert re.findall(r"\S*(?:://|index-url|find-links|/)\S*", LOCK) == []
