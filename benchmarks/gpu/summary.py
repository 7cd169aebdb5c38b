"""``python -m benchmarks.gpu.summary FILE``: of the results in a file, what had a target, and the times."""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.rows import load


def lines(path: Path) -> list[str]:
    """A line per row of the GPU that has a target or is a time."""
    _, rows = load(path)
    chosen = [row for row in rows if row.device == "gpu" and (row.target is not None or row.unit == "us")]
    table = [(row.op, *row.cells()) for row in chosen]
    widths = [max(len(cells[i]) for cells in table) for i in range(len(table[0]))] if table else []
    return ["  ".join(c.ljust(w) for c, w in zip(cells, widths, strict=True)).rstrip() for cells in table]


if __name__ == "__main__":
    print("\n".join(lines(Path(sys.argv[1]))))
