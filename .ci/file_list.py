"""Bring the list of files in generation_report.md up to date: `make report`.

Removes the lines of deleted files. Adds a line for each new file, with the first sentence of its
docstring or leading comment; improve it by hand if that is not enough. Does not change other lines.
"""

import ast
import re
import subprocess
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
REPORT = PROJECT / "generation_report.md"
ROW = re.compile(r"^\| `([^`]+)` \| (.*) \|$", re.MULTILINE)
_TABLE = re.compile(r"(?<=\n## Files\n\n)\| file.*?(?=\n\n|\n?\Z)", re.DOTALL)


def files() -> list[str]:
    """Return the files that git tracks and that exist."""
    listed = subprocess.run(
        ["git", "ls-files"],  # noqa: S607  (whichever git there is)
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
    )
    return sorted(name for name in listed.stdout.splitlines() if (PROJECT / name).is_file())


def first_sentence(path: Path) -> str:
    """Return the first sentence of a file's description, or one made of its name."""
    text = path.read_text(errors="replace")
    found = ""
    if path.suffix == ".py":
        found = ast.get_docstring(ast.parse(text)) or ("" if text.strip() else "Makes a package.")
    elif path.suffix in {"", ".txt", ".yml", ".yaml", ".ts", ".mjs"}:
        found = "".join(re.findall(r"\A(?:#!.*\n)?(?:#|//) (.*)", text))
    elif path.suffix == ".md":
        found = "".join(re.findall(r"\A# (?:\d+\. )?(.*)", text))
    line = found.split("\n\n")[0].replace("\n", " ").replace("|", "/")
    by_name = path.stem.removeprefix("test_").replace("_", " ")
    return re.split(r"(?<=\.) ", line)[0].rstrip(".") or f"Tests: {by_name}"


def main() -> None:
    """Write the list."""
    report = REPORT.read_text()
    known = dict(ROW.findall(report))
    rows = [
        f"| `{name}` | {known.get(name) or first_sentence(PROJECT / name)} |" for name in files()
    ]
    table = "\n".join(["| file | what it is |", "|---|---|", *rows])
    REPORT.write_text(_TABLE.sub(lambda _: table, report))


if __name__ == "__main__":
    main()
