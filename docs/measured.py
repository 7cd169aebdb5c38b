"""Write the measured tables of the documentation: from benchmarks/results/*.json into the pages, between markers.

``python -m docs.measured`` rewrites the pages, ``python -m docs.measured --check`` fails where one differs from the
measurements. No figure in these pages is typed by hand.
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.rows import Row, load

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
OPENS, CLOSES = "<!-- measured: {op} -->\n", "<!-- end of measured -->"
NOTHING = "Nothing is measured yet; `make bench` measures this machine.\n"


def page_of(op: str) -> Path:
    """The page that documents an op."""
    return ROOT / "docs" / f"{op}.md"


def ops() -> list[str]:
    """Ops that have a page with a place for measurements."""
    return sorted(p.stem for p in (ROOT / "docs").glob("*.md") if OPENS.format(op=p.stem) in p.read_text())


def fill(page: str, op: str, results: Path = RESULTS) -> str:
    """Return ``page`` with the tables of ``op`` between its markers."""
    before, rest = page.split(OPENS.format(op=op))
    _, after = rest.split(CLOSES)
    tables = [table for path in sorted(results.glob("*.json")) if (table := _table(op, *load(path)))]
    return before + OPENS.format(op=op) + ("\n".join(tables) or NOTHING) + CLOSES + after


def _table(op: str, machine: dict[str, str], rows: list[Row]) -> str:
    rows = [row for row in rows if row.op == op]
    if not rows:
        return ""
    changed = " with uncommitted changes" if machine["uncommitted_changes"] else ""
    lines = [
        f"Measured {machine['date']} at commit `{machine['commit']}`{changed}: {machine['cpu']}, "
        f"{machine['instruction_set']}, torch {machine['torch']}, {machine['rounds']} interleaved rounds.",
        "",
        "| case | figure | ours | beside | value | target | |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += ["| " + " | ".join(row.cells()) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def main(check: bool) -> int:
    """Rewrite the pages, or with ``check`` only compare them; return how many differ."""
    stale = 0
    for op in ops():
        page = page_of(op)
        old = page.read_text()
        new = fill(old, op)
        if new == old:
            continue
        stale += 1
        print(
            f"{page.relative_to(ROOT)}: " + ("differs from the measurements; run `make docs`" if check else "written")
        )
        if not check:
            page.write_text(new)
    return stale


if __name__ == "__main__":
    stale_pages = main("--check" in sys.argv[1:])
    sys.exit(1 if stale_pages and "--check" in sys.argv[1:] else 0)
