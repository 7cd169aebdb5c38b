"""What was measured: one row per ratio, printed as a table and written as JSON."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any


@dataclasses.dataclass(frozen=True)
class Row:
    """One figure.

    Attributes:
        op: The op measured.
        case: Shape and layout.
        figure: What the value is, for example ``"forward"`` or ``"peak memory"``.
        ours, peer: The two sides of the comparison.
        value, unit: ``"x"``: the peer's cost over ours; ``"%"``: our share of the bound; others are absolute.
        target: What was set out to be reached, or None.
        at_most: The target is an upper bound.
        device: ``"cpu"`` or ``"gpu"``: what it was measured on.
    """

    op: str
    case: str
    figure: str
    ours: str
    peer: str
    value: float
    unit: str = "x"
    target: float | None = None
    at_most: bool = False
    device: str = "cpu"

    @property
    def verdict(self) -> str:
        """``"met"``, ``"missed"`` or, without a target, nothing."""
        if self.target is None:
            return ""
        return "met" if (self.value <= self.target if self.at_most else self.value >= self.target) else "missed"

    def cells(self) -> tuple[str, ...]:
        """The row as text, one string per column of :data:`COLUMNS`."""
        bound = "" if self.target is None else f"{'<=' if self.at_most else '>='} {self.target:g} {self.unit}"
        value = f"{self.value:.3g} {self.unit}"
        return self.case, self.figure, self.ours, self.peer, value, bound, self.verdict


COLUMNS = ("case", "figure", "ours", "beside", "value", "target", "")


@dataclasses.dataclass
class Measurements:
    """Everything one run of the benchmarks found out."""

    rows: list[Row] = dataclasses.field(default_factory=list)
    left_out: dict[str, str] = dataclasses.field(default_factory=dict)

    def add(self, row: Row) -> None:
        """Keep a figure."""
        self.rows.append(row)

    def leave_out(self, what: str, reason: str) -> None:
        """Say why there is no figure; it replaces what was said before about the same."""
        self.left_out[what] = reason

    def lines(self) -> list[str]:
        """The tables, one per op, and what is missing from them."""
        lines = []
        for op, device in dict.fromkeys((row.op, row.device) for row in self.rows):
            table = [COLUMNS, *(row.cells() for row in self.rows if (row.op, row.device) == (op, device))]
            widths = [max(len(cells[i]) for cells in table) for i in range(len(COLUMNS))]
            lines += [
                "",
                f"{op}, {device}: cost of what stands beside over ours, medians of interleaved rounds",
            ]
            lines += ["  ".join(c.ljust(w) for c, w in zip(cells, widths, strict=True)).rstrip() for cells in table]
        return lines + [f"left out: {what}: {reason}" for what, reason in sorted(self.left_out.items())]

    def save(self, path: Path, machine: dict[str, object]) -> None:
        """Write the rows and the machine they were measured on."""
        record = {
            "machine": machine,
            "rows": [dataclasses.asdict(row) for row in self.rows],
            "left_out": dict(sorted(self.left_out.items())),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record, indent=1) + "\n")


def load(path: Path) -> tuple[dict[str, Any], list[Row]]:
    """Read back the machine and the rows that :meth:`Measurements.save` wrote."""
    record = json.loads(path.read_text())
    return record["machine"], [Row(**row) for row in record["rows"]]
