"""What a grid of runs says: paired differences, a table, a page, curves, and the numbers behind them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transmamba.checkpoint import versions
from transmamba.config import to_dict
from transmamba.files import write_atomic, write_json, write_text
from transmamba.pictures import dress, new_figure, to_png
from transmamba.report import first_reaching
from transmamba.tasks import Metric

if TYPE_CHECKING:
    from transmamba.ablate import Grid

FORMAT = "transmamba-ablation"
TABLE, NUMBERS, CURVE = "ablation.md", "ablation.json", "curve.png"
SHARES = (100, 75, 50, 25)  # per cent of what scratch sees
DATA = ("data-", "steps-", "scratch-")  # how the names of variants begin that change the data
_LINES = {"data-": "adapted, equal epochs", "steps-": "adapted, equal steps", "scratch-": "scratch, equal epochs"}
# What the paper's claim comes to in miniature: a variant's accuracy may be so many points below scratch's.
CLAIMS = {"data-75": 0.5, "data-50": 1.5}


def summarise(grid: Grid, metrics: Mapping[str, Mapping[int, dict[str, Any]]]) -> dict[str, Any]:
    """Everything that table, page and curves show, in types that JSON has.

    Args:
        metrics: Of each variant and seed, where there are any.
    """
    base = next(iter(grid.variants))
    found = {seed: cell["results"] for seed, cell in metrics[base].items()}
    first = next(iter(metrics[base].values()))
    metric = Metric(**first["metric"])
    scratch = {seed: results["scratch"] for seed, results in found.items()}
    adapted = {n: {s: cell["results"]["adapted"] for s, cell in cells.items()} for n, cells in metrics.items()}
    rows = {"scratch": scratch, **adapted}
    return {
        "format": FORMAT,
        "config": to_dict(grid.config),
        "same_as_base": list(grid.same),
        "left_out": grid.left_out,
        "metric": first["metric"],
        "unit": first["data"]["unit"],
        "teacher": _spread([results["teacher"][metric.name] for results in found.values()]),
        "rows": {
            name: {
                "changes": grid.variants.get(name, {}),
                "reached": _spread([cell[metric.name] for cell in cells.values()]),
                "to_base": _difference(cells, adapted[base], metric.name),
                "to_scratch": _difference(cells, scratch, metric.name),
                "seeds": {str(seed): _cell(cell, scratch.get(seed), metric) for seed, cell in cells.items()},
            }
            for name, cells in rows.items()
            if cells
        },
        "versions": versions(),
    }


def _cell(trained: dict[str, Any], scratch: dict[str, Any] | None, metric: Metric) -> dict[str, Any]:
    reached = first_reaching(trained["history"], scratch[metric.name], metric) if scratch else None
    return {
        "reached": trained[metric.name],
        "samples": trained["train_samples"],
        "epochs": trained["epochs"],
        "steps": trained["steps"],
        "steps_to_scratch": reached["step"] if reached else None,
        "epochs_to_scratch": reached["epoch"] if reached else None,
        "curve": [[row["step"], row[metric.name]] for row in trained["history"]],
    }


def _spread(values: list[float]) -> dict[str, float | None]:
    """Mean and standard deviation, which a single value has not."""
    return {
        "mean": statistics.fmean(values) if values else None,
        "std": statistics.stdev(values) if len(values) > 1 else None,
    }


def _difference(cells: Mapping[int, Any], others: Mapping[int, Any], name: str) -> dict[str, float | None]:
    """Mean of the differences of each seed, and its standard error: what the seeds have in common falls out."""
    spread = _spread([cells[seed][name] - others[seed][name] for seed in cells if seed in others])
    deviation, paired = spread["std"], sum(seed in others for seed in cells)
    return {"mean": spread["mean"], "error": None if deviation is None else deviation / math.sqrt(paired)}


def row_of(content: dict[str, Any], name: str) -> dict[str, Any] | None:
    """The row called ``name``, which is the base's for a variant that is the base itself."""
    return content["rows"].get("base" if name in content["same_as_base"] else name)


def headers(content: dict[str, Any]) -> tuple[str, ...]:
    """Of the columns of the table."""
    return "", content["unit"], "epochs", "steps", content["metric"]["name"], "- base", "- scratch", "steps to scratch"


def table_rows(content: dict[str, Any], names: Iterable[str]) -> list[tuple[str, ...]]:
    """Rows of texts under :func:`headers`; parts of one are in per cent, and their differences in points."""
    rows: list[tuple[str, ...]] = []
    points = partial(_points, scale=100 if content["metric"]["form"].endswith("%") else 1)
    for name in names:
        row = content["rows"][name]
        cells = list(row["seeds"].values())
        reached = [cell for cell in cells if cell["steps_to_scratch"] is not None]
        fewer = "" if len(cells) == len(content["rows"]["base"]["seeds"]) else f" (seeds {', '.join(row['seeds'])})"
        after = "-"
        if reached:
            after = f"{_mean(reached, 'steps_to_scratch')} (epoch {_mean(reached, 'epochs_to_scratch')})"
            after += f" in {len(reached)} of {len(cells)}" if len(reached) < len(cells) else ""
        rows.append(
            (
                name + fewer,
                *(_mean(cells, what) for what in ("samples", "epochs", "steps")),
                points(row["reached"]["mean"], row["reached"]["std"], ""),
                "" if name == "base" else points(row["to_base"]["mean"], row["to_base"]["error"], "+"),
                "" if name == "scratch" else points(row["to_scratch"]["mean"], row["to_scratch"]["error"], "+"),
                after,
            )
        )
    return rows


def _mean(cells: list[dict[str, Any]], what: str) -> str:
    return f"{statistics.fmean(cell[what] for cell in cells):.0f}"


def _points(mean: float | None, spread: float | None, sign: str, scale: int) -> str:
    if mean is None:
        return "-"
    return f"{scale * mean:{sign}.2f}" + ("" if spread is None else f" ± {scale * spread:.2f}")


def sections(content: dict[str, Any]) -> dict[str, list[str]]:
    """Names of the rows by what they change, the ones they are compared with first."""
    changing = [name for name in content["rows"] if name not in ("scratch", "base")]
    data = [name for name in changing if name.startswith(DATA)]
    both = {"Data": data, "Method": [name for name in changing if name not in data]}
    return {title: ["scratch", "base", *names] for title, names in both.items() if names} or {"": ["scratch", "base"]}


def claims(content: dict[str, Any]) -> list[str]:
    """What the paper's claim comes to on this data, a line each: met or missed."""
    lines: list[str] = []
    if content["metric"]["name"] != "accuracy":
        return lines
    for name, points in CLAIMS.items():
        if (row := row_of(content, name)) and row["to_scratch"]["mean"] is not None:
            mean = round(100 * row["to_scratch"]["mean"], 6)
            what = f"adapted on {name.removeprefix('data-')} % of scratch's data, equal epochs"
            lines.append(f"{what}: {mean:+.2f} points to scratch, at least -{points}: {_verdict(mean >= -points)}")
    for name in ("data-100", *CLAIMS):
        if (row := row_of(content, name)) is None:
            continue
        cells, scratch = row["seeds"], content["rows"]["scratch"]["seeds"]
        parts = [
            cells[seed]["steps_to_scratch"] / scratch[seed]["steps"]
            for seed in cells
            if cells[seed]["steps_to_scratch"] is not None
        ]
        what = f"scratch's final accuracy on {name.removeprefix('data-')} % of its data"
        if len(parts) < len(cells):
            lines.append(f"{what}: reached in {len(parts)} of {len(cells)} seeds: {_verdict(False)}")
        else:
            mean = statistics.fmean(parts)
            lines.append(f"{what}: after {mean:.2f} of its steps, at most 0.5: {_verdict(mean <= 0.5)}")
    return lines


def _verdict(met: bool) -> str:
    return "met" if met else "missed"


def rich_table(content: dict[str, Any]) -> Any:
    """The whole table as a ``rich.table.Table``."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(header_style="bold", caption=conditions(content), box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for i, header in enumerate(headers(content)):
        table.add_column(header, justify="right" if i else "left", no_wrap=not i)
    for row in table_rows(content, content["rows"]):
        table.add_row(*row, style="bold" if row[0] in ("scratch", "base") else None)
    return table


def conditions(content: dict[str, Any]) -> str:
    """How the rows were measured, in a few sentences."""
    seeds, teacher = ", ".join(content["rows"]["base"]["seeds"]), content["teacher"]["mean"]
    metric = Metric(**content["metric"])
    same = f" The base is also {', '.join(content['same_as_base'])}." if content["same_as_base"] else ""
    return (
        f"The {metric.name} on the test data after the last epoch: mean ± standard deviation over seeds {seeds}; "
        f"differences, paired by seed, ± standard error; steps to scratch: until its last {metric.name} was reached "
        f"first. Teacher: {metric.text(teacher)}.{same}"
    )


def to_markdown(content: dict[str, Any]) -> str:
    """The tables, how they were measured, and what they say of the claim."""
    lines = [conditions(content), ""]
    for title, names in sections(content).items():
        lines += [f"**{title}**", ""] if title else []
        lines += ["| " + " | ".join(headers(content)) + " |", "|---" + "|---:" * 7 + "|"]
        lines += ["| " + " | ".join(row) + " |" for row in table_rows(content, names)] + [""]
    lines += [f"- {line}" for line in claims(content)]
    lines += [f"- {name} was left out: {reason}" for name, reason in content["left_out"].items()]
    return "\n".join(lines).rstrip() + "\n"


def write(folder: Path, content: dict[str, Any]) -> None:
    """Write curves, page and numbers into ``folder``."""
    config = content["config"]
    write_atomic(folder / CURVE, plot(content))
    title = f"# Ablation of {config['student']} on {config['data']}\n\n"
    write_text(folder / TABLE, f"{title}{to_markdown(content)}\n![Curves]({CURVE})\n")
    curves = {name: {**row, "seeds": _without_curves(row["seeds"])} for name, row in content["rows"].items()}
    write_json(folder / NUMBERS, {**content, "rows": curves})


def _without_curves(cells: dict[str, Any]) -> dict[str, Any]:
    return {seed: {k: v for k, v in cell.items() if k != "curve"} for seed, cell in cells.items()}


def plot(content: dict[str, Any]) -> bytes:
    """A PNG: accuracy over steps, and over the share of the data where that was varied; means over the seeds."""
    lines = _data_curves(content)
    figure = new_figure(11 if lines else 7, 4.2, 130)
    left, *right = figure.subplots(1, 2 if lines else 1, squeeze=False)[0]
    shown = ["scratch", "base", *(name for name in content["rows"] if name.startswith("data-"))]
    for name in shown:
        curves = [cell["curve"] for cell in content["rows"][name]["seeds"].values()]
        steps = [point[0] for point in curves[0]]
        means = [statistics.fmean(point[1] for point in points) for points in zip(*curves, strict=True)]
        left.plot(steps, means, marker="o", markersize=3, linewidth=1.5, label=name)
    left.set(xlabel="training steps", ylabel=f"test {content['metric']['name']}", xlim=(0, None))
    for axes in right:
        for label, points in lines.items():
            axes.errorbar(*zip(*points, strict=True), marker="o", markersize=4, linewidth=1.5, capsize=3, label=label)
        axes.set(xlabel="training data, % of scratch's", xlim=(0, 105))
    for axes in (left, *right):
        dress(axes, content["metric"]["form"])
        axes.legend(frameon=False, loc="lower right", fontsize=9)
    return to_png(figure)


def _data_curves(content: dict[str, Any]) -> dict[str, list[tuple[int, float, float]]]:
    """Share of scratch's data, mean and deviation of what was reached, for each way to learn from less of it."""
    lines: dict[str, list[tuple[int, float, float]]] = {}
    for prefix, label in _LINES.items():
        for share in SHARES:
            whole = "scratch" if prefix == "scratch-" else "data-100"
            if (row := row_of(content, whole if share == 100 else f"{prefix}{share}")) is not None:
                spread = row["reached"]
                lines.setdefault(label, []).append((share, spread["mean"], spread["std"] or 0.0))
    return {label: points for label, points in lines.items() if len(points) > 1}
