"""Bring the list of files in generation_report.md up to date: `make report`.

Lines of files that are gone are taken out. A new file gets a line with the first sentence of its
docstring or leading comment, to be mended by hand where that does not say enough; lines that are
there stay as they are.
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
    """Return the files that git knows and that are still there."""
    told = subprocess.run(
        ["git", "ls-files"],  # noqa: S607  (whichever git there is)
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
    )
    return sorted(name for name in told.stdout.splitlines() if (PROJECT / name).is_file())


def first_sentence(path: Path) -> str:
    """Return what a file says of itself; what its name says where it says nothing."""
    text = path.read_text(errors="replace")
    said = ""
    if path.suffix == ".py":
        said = ast.get_docstring(ast.parse(text)) or ("" if text.strip() else "Makes a package.")
    elif path.suffix in {"", ".txt", ".yml", ".yaml", ".ts", ".mjs"}:
        said = "".join(re.findall(r"\A(?:#!.*\n)?(?:#|//) (.*)", text))
    elif path.suffix == ".md":
        said = "".join(re.findall(r"\A# (?:\d+\. )?(.*)", text))
    line = said.split("\n\n")[0].replace("\n", " ").replace("|", "/")
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
