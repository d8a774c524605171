import shutil
import textwrap
from pathlib import Path

import pytest

from tools import mutants, mutants_plugin

CODE = textwrap.dedent(
    """\
    def largest(numbers: list[int], least: int = 0) -> int:
        found = least
        for number in numbers:
            if number > found:
                found = number
        return found
    """
)
TEST = textwrap.dedent(
    """\
    from films.code import largest


    def test_the_largest_number_is_found():
        assert largest([3, 1]) == 3
        assert largest([]) == 0
    """
)


def mutate(source: str) -> list[tuple[str, str]]:
    """The kind and the changed lines of each mutation."""
    found = mutants.mutations_of("code.py", textwrap.dedent(source))
    return [(mutation.kind, mutation.key[2]) for mutation in found]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("x = a < b", [("comparison", "x = a <= b")]),
        ("x = a not  in b", [("comparison", "x = a in b")]),
        ("x = a is None", [("comparison", "x = a is not None")]),
        ("x = (a) and (b)", [("boolean", "x = (a) or (b)")]),
        ("x = a or b or c", [("boolean", "x = a and b and c")]),
        ("x = not (a)", [("boolean", "x =  (a)")]),
        ("x = a // b", [("arithmetic", "x = a * b")]),
        ("x = 'ü' + b", [("arithmetic", "x = 'ü' - b")]),
        ("x = 7", [("constant", "x = 8")]),
        ("x = True", [("constant", "x = False")]),
        ("x = f(y)", [("removed call", "x = (y)")]),
        ("f()", [("removed statement", "removed: f()")]),
        ("x.y = z", [("removed statement", "removed: x.y = z")]),
        ("x = b if a else c", [("negated condition", "x = b if not (a) else c")]),
        ("x = [a for a in b if a]", [("negated condition", "x = [a for a in b if not (a)]")]),
    ],
)
def test_each_kind_of_mutation_changes_one_place(
    source: str, expected: list[tuple[str, str]]
) -> None:
    assert mutate(source) == expected


def test_a_returned_value_becomes_none() -> None:
    source = """
        def f():
            return (
                x
            )
    """

    assert mutate(source) == [("return None", "None")]


@pytest.mark.parametrize(
    "source",
    [
        "x: Literal[1]",
        "@f(1)\ndef g() -> Literal[2]: ...",
        "logger.info(a + b)",
        "self._log(1)",
        '"""Docstring."""',
        "if TYPE_CHECKING:\n    x = 1",
        "class A:\n    class Meta:\n        x = 1",
        "x = list(y)",
        "class A:\n    def __str__(self):\n        return f(1)",
        "x = f'{a + 1}'",
        "def f():\n    return None",
        "def f():\n    return",
    ],
)
def test_mutations_that_say_little_are_not_generated(source: str) -> None:
    assert mutate(source) == []


def test_a_mutation_names_its_function() -> None:
    (mutation,) = mutants.mutations_of("a.py", "class A:\n    def f(self):\n        x = 1\n")

    assert mutation.key == ("a.py", "A.f", "x = 2")
    assert mutation.lines == (2, 3)
    assert "-        x = 1" in mutation.diff


def test_the_product_code_can_be_mutated() -> None:
    path = next(path for path in mutants.product_files() if path.endswith("single_flight.py"))

    found = mutants.mutations_of(path, (mutants.PROJECT / path).read_text(encoding="utf-8"))

    assert all(mutation.mutated != mutation.source for mutation in found)
    assert len(found) > 5


def test_equivalent_mutations_are_listed_by_file_function_and_changed_lines() -> None:
    text = "# reason\nbackend/a.py | A.f | x = a | b\n\n"

    assert mutants.equivalent(text) == {("backend/a.py", "A.f", "x = a | b")}


def test_the_listed_mutations_exist() -> None:
    listed = mutants.equivalent(mutants.EQUIVALENT.read_text(encoding="utf-8"))

    found = {
        mutation.key
        for path in {path for path, *_ in listed}
        for mutation in mutants.mutations_of(
            path, (mutants.PROJECT / path).read_text(encoding="utf-8")
        )
    }

    assert listed - found == set()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with one function, one test, and the plugin."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # faster
    tmp_path = tmp_path / "project"
    for suite in mutants.SUITES:
        (tmp_path / suite).mkdir(parents=True)
    (tmp_path / "backend" / "films" / "__init__.py").touch()
    (tmp_path / "backend" / "films" / "code.py").write_text(CODE)
    (tmp_path / "backend" / "films" / "tests" / "test_code.py").write_text(TEST)
    (tmp_path / "pytest.ini").write_text("[pytest]\npythonpath = backend .\n")
    (tmp_path / "tools").mkdir()
    shutil.copy(mutants_plugin.__file__, tmp_path / "tools")
    return tmp_path


def test_survivors_are_the_mutations_that_no_test_detects(project: Path, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    trees = mutants.prepare(project, tmp_path / "work", jobs=2)
    mutations = [
        mutation
        for mutation in mutants.mutations_of("backend/films/code.py", CODE)
        if mutation.kind in {"comparison", "return None"}
    ]

    found = mutants.survivors(trees, mutations)

    assert [mutation.key[2] for mutation in found] == ["if number >= found:"]


def test_tests_that_fail_without_a_mutation_end_the_run(project: Path, tmp_path: Path) -> None:
    (project / "backend" / "films" / "tests" / "test_code.py").write_text("def test_a(): assert 0")
    (tmp_path / "work").mkdir()

    with pytest.raises(SystemExit, match="test_a"):
        mutants.prepare(project, tmp_path / "work", jobs=1)


def test_a_test_that_fails_by_chance_kills_nothing(project: Path, tmp_path: Path) -> None:
    test = TEST + textwrap.dedent(
        """

        def test_that_fails_at_its_first_run_with_a_mutation():
            import os, pathlib
            chance = pathlib.Path(__file__).with_name("chance")
            if not chance.exists() and "MUTANTS_RECORD" not in os.environ:
                chance.touch()
                assert False
        """
    )
    (project / "backend" / "films" / "tests" / "test_code.py").write_text(test)
    (tmp_path / "work").mkdir()
    (tree,) = mutants.prepare(project, tmp_path / "work", jobs=1)
    (mutation,) = (
        found
        for found in mutants.mutations_of("backend/films/code.py", CODE)
        if found.kind == "comparison"
    )

    assert tree.killer(mutation) is None


def test_tests_that_cannot_be_imported_end_the_run(project: Path, tmp_path: Path) -> None:
    (project / "backend" / "core" / "tests" / "test_gone.py").write_text("import gone")
    (tmp_path / "work").mkdir()

    with pytest.raises(SystemExit, match="test_gone"):
        mutants.prepare(project, tmp_path / "work", jobs=1)
