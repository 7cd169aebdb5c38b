"""What subcloning did, tensor by tensor."""

from __future__ import annotations

import dataclasses
from typing import Any, cast


@dataclasses.dataclass(frozen=True)
class SubcloneRow:
    """One student tensor.

    Attributes:
        tensor, shape, numel: Its name and size.
        source: The teacher tensor it was filled from, or None.
        index: Which rows, columns or channels of the source were taken; empty for all of them.
        scale: What the values were multiplied by, or None.
        coverage: Part of its elements that came from the teacher, 0 to 1.
        note: How it was resampled, or why it keeps its own initialisation.
    """

    tensor: str
    shape: tuple[int, ...]
    numel: int
    source: str | None = None
    index: str = ""
    scale: float | None = None
    coverage: float = 0.0
    note: str = ""


@dataclasses.dataclass
class SubcloneReport:
    """Every student tensor with its origin, and every teacher tensor that went nowhere.

    Attributes:
        rows: One :class:`SubcloneRow` per student parameter, in the student's order.
        channels: The residual index set. Student at most as wide as the teacher: the teacher channel behind each
            student channel. Wider: the student channel that each teacher channel went to. One list per layer where the
            layers differ in width.
        hidden: Student layer to the MLP units taken there, likewise.
        layer_map: Teacher layer behind each student layer.
        early: Number of first layers that were cloned.
        settings: The options it was made with.
        unused: Teacher tensors that no student tensor was filled from.
    """

    rows: list[SubcloneRow]
    channels: list[int] | list[list[int]]
    hidden: dict[int, list[int]]
    layer_map: list[int]
    early: int
    settings: dict[str, Any]
    unused: list[str]

    @property
    def coverage(self) -> float:
        """Part of all student parameters that came from the teacher, 0 to 1."""
        return sum(row.coverage * row.numel for row in self.rows) / max(1, sum(row.numel for row in self.rows))

    def to_dict(self) -> dict[str, Any]:
        """The whole report in types that JSON has."""
        content = dataclasses.asdict(self)
        content["rows"] = [{**row, "shape": list(row["shape"])} for row in content["rows"]]
        content["hidden"] = {str(layer): units for layer, units in self.hidden.items()}
        return {"coverage": self.coverage, **content}

    def _residuals(self) -> list[tuple[str, list[int]]]:
        """Each index set once, and the layers it is of."""
        if not self.channels or isinstance(self.channels[0], int):
            return [("", cast("list[int]", self.channels))]
        each = cast("list[list[int]]", self.channels)
        layers: dict[tuple[int, ...], list[int]] = {}
        for layer, indices in enumerate(each):
            layers.setdefault(tuple(indices), []).append(layer)
        return [(f" of layers {', '.join(map(str, which))}", list(indices)) for indices, which in layers.items()]

    def to_markdown(self) -> str:
        """The whole report as a page: summary, one table row per student tensor, unused teacher tensors."""
        cloned = sum(row.source is not None for row in self.rows)
        lines = [
            "# Subcloning",
            "",
            f"{cloned} of {len(self.rows)} student tensors were filled from the teacher, "
            f"{self.coverage:.1%} of the parameters.",
            "",
            f"- Options: {', '.join(f'{name} = {value}' for name, value in self.settings.items())}",
            f"- Layers (student <- teacher): {', '.join(f'{s} <- {t}' for s, t in enumerate(self.layer_map))}; "
            f"the first {self.early} are cloned",
            *(f"- Residual channels{of}: {_span(indices)}" for of, indices in self._residuals()),
            "",
            "| student tensor | shape | source | index | scale | coverage | note |",
            "|---|---|---|---|---|---|---|",
        ]
        for row in self.rows:
            source = f"`{row.source}`" if row.source else "own initialisation"
            scale = "" if row.scale is None else f"{row.scale:.4g}"
            shape = " x ".join(map(str, row.shape))
            lines.append(
                f"| `{row.tensor}` | {shape} | {source} | {row.index} | {scale} | {row.coverage:.0%} | {row.note} |"
            )
        lines += ["", "## Teacher tensors not used", ""]
        lines += [f"- `{name}`" for name in self.unused] or ["None."]
        return "\n".join(lines) + "\n"


def _span(indices: list[int]) -> str:
    if indices == list(range(len(indices))):
        return f"all of the first {len(indices)}, in order"
    return f"{len(indices)}: {', '.join(map(str, indices))}"
