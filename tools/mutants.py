"""Measure how many small faults in the product code the fast tests detect: `make mutants`.

A seeded sample of mutations (`--count`, `--seed`) is applied one by one, each in a private copy of
the tree. For each mutation the tests that enter the mutated function run first; if they pass, the
whole fast suite runs. The exit status is 1 if fewer than 92 % of the mutations are detected.
Mutations that cannot be detected are listed in mutants_equivalent.txt and do not count.

Mutations of log calls, annotations, decorators and texts for people are not generated. The tests
run on SQLite, without Redis, so the mutations of `core/postgresql` are left out.
"""

import argparse
import ast
import difflib
import json
import os
import queue
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
EQUIVALENT = Path(__file__).with_name("mutants_equivalent.txt")
PACKAGES = ("films", "core", "web", "cinemix")
SUITES = tuple(f"backend/{package}/tests" for package in PACKAGES)
LEAST_RATIO = 0.92
NOT_COPIED = (".git", ".venv*", "node_modules", "var", "generated", "__pycache__", ".*_cache")

# How an operator is written, and what replaces it.
OPERATORS: dict[type[ast.AST], tuple[str, str]] = {
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
    ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
    ast.And: ("and", "or"),
    ast.Or: ("or", "and"),
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "/"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "*"),
    ast.Mod: ("%", "*"),
    ast.BitOr: ("|", "&"),
    ast.BitAnd: ("&", "|"),
}
# Removing these calls rarely changes anything.
CONVERSIONS = {"bool", "bytes", "cast", "dict", "frozenset", "iter", "list", "set", "str", "tuple"}
TEXTS_FOR_PEOPLE = {"__str__", "__repr__"}
LEFT_OUT = {"tests", "migrations", "postgresql"}
MAX_UNSTABLE = 3
FAILED = re.compile(r"^(?:FAILED|ERROR) (.+?)(?: - |$)", re.MULTILINE)
LOG_CALL = re.compile(r"(^|\.)_?log(ger)?(\.|$)|(^|\.)_?log_\w+$|logging\.")


@dataclass(frozen=True)
class Mutation:
    """One changed place. `lines` are the first and last line of the function around it."""

    path: str
    function: str
    kind: str
    lines: tuple[int, int] | None
    source: str
    mutated: str

    @property
    def key(self) -> tuple[str, str, str]:
        """What identifies the mutation in mutants_equivalent.txt."""
        added, removed = (
            " ".join(line[1:].strip() for line in self._diff(0) if line.startswith(sign))
            for sign in "+-"
        )
        return self.path, self.function, f"removed: {removed}" if added == "pass" else added

    @property
    def diff(self) -> str:
        return "\n".join(self._diff(2))

    def _diff(self, context: int) -> list[str]:
        before, after = self.source.splitlines(), self.mutated.splitlines()
        found = difflib.unified_diff(before, after, lineterm="", n=context)
        return [line for line in found if not line.startswith(("---", "+++"))]


class Mutator(ast.NodeVisitor):
    """Collects the mutations of one file.

    An edit is (start, end, replacement) in bytes of the source, so that the rest of the file keeps
    its text.
    """

    def __init__(self, path: str, source: str) -> None:
        self.found: list[Mutation] = []
        self._path, self._text, self._bytes = path, source, source.encode()
        starts = [0]
        for line in self._bytes.splitlines(keepends=True):
            starts.append(starts[-1] + len(line))
        self._line_starts = starts
        self._scopes: list[ast.AST] = []
        self.visit(ast.parse(source))

    # Positions

    def _start(self, node: ast.AST) -> int:
        return self._line_starts[node.lineno - 1] + node.col_offset

    def _end(self, node: ast.AST) -> int:
        line, column = node.end_lineno, node.end_col_offset
        return self._line_starts[line - 1] + column

    def _swap(self, left: ast.AST, operator: ast.AST, right: ast.AST) -> tuple[int, int, str]:
        """The edit that replaces an operator between two operands."""
        old, new = OPERATORS[type(operator)]
        start = self._end(left)
        words = re.escape(old).replace(r"\ ", r"\s+")
        pattern = rf"\b{words}\b" if old.isidentifier() or " " in old else words
        match = re.search(pattern.encode(), self._bytes[start : self._start(right)])
        assert match, (self._path, old)
        return start + match.start(), start + match.end(), new

    def _add(self, kind: str, *edits: tuple[int, int, str]) -> None:
        mutated = self._bytes
        for start, end, new in sorted(edits, reverse=True):
            mutated = mutated[:start] + new.encode() + mutated[end:]
        text = mutated.decode()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                compile(text, self._path, "exec")
        except SyntaxError:
            return
        names = [scope.name for scope in self._scopes]
        functions = [scope for scope in self._scopes if not isinstance(scope, ast.ClassDef)]
        lines = _lines_of(functions[-1]) if functions else None
        name = ".".join(names) or "<module>"
        self.found.append(Mutation(self._path, name, kind, lines, self._text, text))

    # Scopes, and what is left out

    def _scope(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> None:
        if node.name in TEXTS_FOR_PEOPLE:
            return
        self._scopes.append(node)
        if not isinstance(node, ast.ClassDef):
            for default in (*node.args.defaults, *node.args.kw_defaults):
                if default:
                    self.visit(default)
        elif node.name == "Meta":
            self._scopes.pop()
            return
        for statement in node.body:
            self.visit(statement)
        self._scopes.pop()

    visit_FunctionDef = visit_AsyncFunctionDef = visit_ClassDef = _scope

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value:
            self.visit(node.value)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """Positions inside f-strings are not reliable before Python 3.12."""

    def visit_Call(self, node: ast.Call) -> None:
        name = ast.unparse(node.func)
        if LOG_CALL.search(name):
            return
        removable = len(node.args) == 1 and not node.keywords and name not in CONVERSIONS
        if removable and not isinstance(node.args[0], (ast.Starred, ast.GeneratorExp)):
            argument = self._bytes[self._start(node.args[0]) : self._end(node.args[0])].decode()
            self._add("removed call", (self._start(node), self._end(node), f"({argument})"))
        self.generic_visit(node)

    # Expressions

    def visit_Compare(self, node: ast.Compare) -> None:
        operands = [node.left, *node.comparators]
        for operator, left, right in zip(node.ops, operands, operands[1:], strict=False):
            self._add("comparison", self._swap(left, operator, right))
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        pairs = zip(node.values, node.values[1:], strict=False)
        self._add("boolean", *(self._swap(left, node.op, right) for left, right in pairs))
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        length = {ast.Not: 3, ast.USub: 1}.get(type(node.op))
        if length:
            start = self._start(node)
            self._add("boolean" if length == 3 else "arithmetic", (start, start + length, ""))
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        if type(node.op) in OPERATORS:
            self._add("arithmetic", self._swap(node.left, node.op, node.right))
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, bool):
            self._replace("constant", node, str(not node.value))
        elif isinstance(node.value, (int, float)):
            self._replace("constant", node, str(node.value + 1))

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self._negate(node.test)
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        for condition in node.ifs:
            self._negate(condition)
        self.generic_visit(node)

    def _negate(self, test: ast.expr) -> None:
        text = self._bytes[self._start(test) : self._end(test)].decode()
        self._replace("negated condition", test, f"not ({text})")

    def _replace(self, kind: str, node: ast.AST, text: str) -> None:
        self._add(kind, (self._start(node), self._end(node), text))

    # Statements

    def _condition(self, node: ast.If | ast.While) -> None:
        if ast.unparse(node.test) != "TYPE_CHECKING":
            self._negate(node.test)
            self.generic_visit(node)

    visit_If = visit_While = _condition

    def visit_Return(self, node: ast.Return) -> None:
        if node.value and not (isinstance(node.value, ast.Constant) and node.value.value is None):
            self._replace("return None", node.value, "None")
        self.generic_visit(node)

    def _removable(self, node: ast.stmt) -> None:
        self._replace("removed statement", node, "pass")
        self.generic_visit(node)

    visit_AugAssign = visit_Raise = visit_Continue = visit_Break = visit_Delete = _removable

    def visit_Assign(self, node: ast.Assign) -> None:
        if all(isinstance(target, (ast.Attribute, ast.Subscript)) for target in node.targets):
            self._replace("removed statement", node, "pass")
        self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> None:
        call = node.value.value if isinstance(node.value, ast.Await) else node.value
        if isinstance(call, ast.Call) and not LOG_CALL.search(ast.unparse(call.func)):
            self._replace("removed statement", node, "pass")
            self.generic_visit(node)


def _lines_of(function: ast.AST) -> tuple[int, int]:
    decorators = [decorator.lineno for decorator in function.decorator_list]
    return min([function.lineno, *decorators]), function.end_lineno


def mutations_of(path: str, source: str) -> list[Mutation]:
    """Return all mutations of one file, in the order of the source."""
    return Mutator(path, source).found


def product_files() -> Iterator[str]:
    """The files whose faults the tests should detect, relative to the project."""
    for package in PACKAGES:
        for found in sorted((PROJECT / "backend" / package).rglob("*.py")):
            path = found.relative_to(PROJECT)
            if not LEFT_OUT & set(path.parts) and path.name != "__init__.py":
                yield str(path)


def equivalent(text: str) -> set[tuple[str, str, str]]:
    """The keys listed in mutants_equivalent.txt: `file | function | changed lines`."""
    lines = (line.strip() for line in text.splitlines())
    parts = (line.split(" | ", 2) for line in lines if line and not line.startswith("#"))
    return {(path, function, changed) for path, function, changed in parts}


@dataclass
class Outcome:
    """How a test run ended: its exit status, -1 after its time limit, and what failed."""

    status: int
    failed: list[str]


class Tree:
    """A private copy of the project in which tests run."""

    def __init__(
        self,
        folder: Path,
        *,
        entered: dict[str, list[tuple[int, str]]],
        seconds: dict[str, float],
    ) -> None:
        self._folder, self._entered, self._seconds = folder, entered, seconds

    def killer(self, mutation: Mutation) -> str | None:
        """Return the test that fails with the mutation, or None if all tests pass."""
        path = self._folder / mutation.path
        # A stale byte code file could hide the mutation: its size and second may be the same.
        for cached in path.parent.glob(f"__pycache__/{path.stem}.*.pyc"):
            cached.unlink()
        path.write_text(mutation.mutated, encoding="utf-8")
        try:
            return self._first_failure(self._tests_for(mutation)) or self._first_failure(None)
        finally:
            path.write_text(mutation.source, encoding="utf-8")

    def _tests_for(self, mutation: Mutation) -> list[str]:
        """The tests that entered the mutated function, or the file if it is outside functions."""
        first, last = mutation.lines or (0, sys.maxsize)
        visits = self._entered.get(mutation.path, [])
        return sorted({test for line, test in visits if first <= line <= last})

    def _first_failure(self, tests: list[str] | None) -> str | None:
        """Run the given tests, or the whole fast suite."""
        if tests == []:
            return None
        unstable: list[str] = []
        while True:
            outcome = self._run(tests, unstable)
            if outcome.status == 0:
                return None
            if len(outcome.failed) != 1:
                return "time limit" if outcome.status == -1 else "import"
            (failed,) = outcome.failed
            # A test that passes on its own may have failed because the machine is busy.
            if len(unstable) == MAX_UNSTABLE or self._run(outcome.failed, []).status:
                return failed
            unstable.append(failed)

    def _run(self, tests: list[str] | None, left_out: list[str]) -> Outcome:
        files = sorted({test.split("::")[0] for test in tests}) if tests else SUITES
        with tempfile.NamedTemporaryFile("w", suffix=".json") as selection:
            json.dump({"only": tests, "left_out": left_out}, selection)
            selection.flush()
            # Recorded while the tests were traced, these times are a generous limit.
            times = self._seconds
            limit = 30 + 2 * sum(times.get(test, 0.0) for test in (tests or times))
            return run_tests(self._folder, *files, "-x", selection=selection.name, limit=limit)


def run_tests(
    folder: Path, *arguments: str, selection: str = "", record: str = "", limit: float
) -> Outcome:
    """Run pytest in a copy of the tree."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in {"DATABASE_URL", "REDIS_URL", "DJANGO_SETTINGS_MODULE"}
    }
    # Only the recording run, before any mutation, writes byte code.
    environment |= {"MUTANTS_RECORD": record} if record else {"PYTHONDONTWRITEBYTECODE": "1"}
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "pytest", "-q", "-p", "tools.mutants_plugin", *arguments],
            cwd=folder,
            env=environment | {"ENV_FILE": os.devnull, "MUTANTS_SELECTION": selection},
            stdout=output,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            status = process.wait(limit)
        except subprocess.TimeoutExpired:
            status = -1
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        output.seek(0)
        return Outcome(status, FAILED.findall(output.read()))


def copy_tree(source: Path, target: Path, *skipped: str) -> Path:
    shutil.copytree(source, target, ignore=shutil.ignore_patterns(*skipped), symlinks=True)
    return target


def prepare(project: Path, folder: Path, *, jobs: int) -> list[Tree]:
    """Copy the project and record which tests enter which function; the tests must pass."""
    first = copy_tree(project, folder / "tree-0", *NOT_COPIED)
    record = folder / "record.json"
    traced = run_tests(first, *SUITES, record=str(record), limit=1800)
    # Tests with a time limit can fail while they are traced.
    if traced.status != 0:
        alone = run_tests(first, *traced.failed, limit=600)
        if alone.status != 0:
            sys.exit(f"tests fail without a mutation: {', '.join(alone.failed)}")
    recorded = json.loads(record.read_text())
    others = [copy_tree(first, folder / f"tree-{number}") for number in range(1, jobs)]
    return [
        Tree(tree, entered=recorded["entered"], seconds=recorded["seconds"])
        for tree in (first, *others)
    ]


def survivors(trees: Sequence[Tree], mutations: Sequence[Mutation]) -> list[Mutation]:
    """Run the tests for each mutation; return those with which all tests pass."""
    free: queue.SimpleQueue[Tree] = queue.SimpleQueue()
    for tree in trees:
        free.put(tree)

    def killer(mutation: Mutation) -> str | None:
        tree = free.get()
        try:
            return tree.killer(mutation)
        finally:
            free.put(tree)

    found = []
    with ThreadPoolExecutor(len(trees)) as pool:
        futures = {pool.submit(killer, mutation): mutation for mutation in mutations}
        for number, future in enumerate(as_completed(futures), start=1):
            mutation, killed_by = futures[future], future.result()
            if killed_by is None:
                found.append(mutation)
            outcome = f"killed by {killed_by}" if killed_by else "SURVIVED"
            print(f"{number:4} {' | '.join(mutation.key)}\n     {outcome}", flush=True)
    return sorted(found, key=lambda mutation: mutation.key)


def main() -> None:
    parser = argparse.ArgumentParser(prog="mutants", description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=200, help="number of mutations (200)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the sample (1)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="parallel test runs")
    parser.add_argument("--only", default="", help="sample only files whose path contains this")
    options = parser.parse_args()
    started = time.monotonic()
    every = [
        mutation
        for path in product_files()
        if options.only in path
        for mutation in mutations_of(path, (PROJECT / path).read_text(encoding="utf-8"))
    ]
    listed = equivalent(EQUIVALENT.read_text(encoding="utf-8"))
    sample = random.Random(options.seed).sample(every, min(options.count, len(every)))
    counted = [mutation for mutation in sample if mutation.key not in listed]
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        found = survivors(prepare(PROJECT, Path(folder), jobs=options.jobs), counted)
    for mutation in found:
        print(f"\n{mutation.path} {mutation.function}: {mutation.kind}\n{mutation.diff}")
    killed = len(counted) - len(found)
    ratio = killed / len(counted)
    print(
        f"\n{len(every)} mutations, {len(sample)} sampled with seed {options.seed},"
        f" {len(sample) - len(counted)} listed as equivalent\n"
        f"{killed} killed, {len(found)} survived: {ratio:.1%}, target {LEAST_RATIO:.0%},"
        f" {time.monotonic() - started:.0f} s"
    )
    sys.exit(ratio < LEAST_RATIO)


if __name__ == "__main__":
    main()
