"""What a run gave: a table, a page, curves, and the numbers behind them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from transmamba.files import write_atomic, write_json, write_text
from transmamba.pictures import dress, new_figure, to_png
from transmamba.run_folder import CURVES, METRICS, REPORT, RUN, STUDENT, SUBCLONE
from transmamba.tasks import Metric

_ORIGINS = {
    "trained": "trained by this run",
    "fine-tuned": "fine-tuned by this run",
    "reused": "trained by an earlier run and reused",
    "given": "given ready",
}
NAMES = ("teacher", "scratch", "adapted")


@torch.no_grad()
def samples_per_second(model: nn.Module, inputs: Tensor, batch_size: int = 256, seconds: float = 0.5) -> float:
    """Inference speed in eval mode, median over as many batches as fit into ``seconds``, at least three."""
    device = next(model.parameters()).device
    batch = inputs[:batch_size].to(device)
    training = model.training
    model.eval()
    model(batch)
    times: list[float] = []
    while len(times) < 3 or sum(times) < seconds:
        began = time.perf_counter()
        model(batch)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - began)
    model.train(training)
    return len(batch) / sorted(times)[len(times) // 2]


def first_reaching(
    history: list[dict[str, float]], wanted: float, metric: Metric | None = None
) -> dict[str, float] | None:
    """The first row of a history that is as good as ``wanted``, or None."""
    metric = metric or Metric()
    return next((row for row in history if metric.reached(row[metric.name], wanted)), None)


def headers(metrics: dict[str, Any]) -> tuple[str, ...]:
    """Of the columns of the final table."""
    name = metrics["metric"]["name"]
    return "", name, "parameters", f"{metrics['data']['unit']}/s", f"steps to scratch's {name}"


def table_rows(metrics: dict[str, Any]) -> list[tuple[str, ...]]:
    """The final table, one row of texts under :func:`headers` for teacher, scratch and adapted."""
    results, metric = metrics["results"], Metric(**metrics["metric"])
    rows: list[tuple[str, ...]] = []
    for name in NAMES:
        result = results[name]
        if result is None:
            continue
        reached, speed = metric.text(result[metric.name]), f"{result['samples_per_second']:,.0f}"
        rows.append((name, reached, f"{result['parameters']:,}", speed, _steps(results, name, metric)))
    return rows


def rich_table(metrics: dict[str, Any]) -> Any:
    """The final table as a ``rich.table.Table``."""
    from rich.table import Table

    student = metrics["config"]["student"]
    table = Table(header_style="bold", caption=f"teacher: Transformer; scratch and adapted: {student}")
    for i, header in enumerate(headers(metrics)):
        table.add_column(header, justify="right" if i else "left")
    for row in table_rows(metrics):
        table.add_row(*row, style="bold green" if row[0] == "adapted" else None)
    return table


def load_line(folder: str | Path) -> str:
    """The line of Python that loads the student of a run."""
    student = (Path(folder) / STUDENT).as_posix()
    return f'from transmamba.models import load_pretrained; student = load_pretrained("{student}")'


def write_report(folder: str | Path, metrics: dict[str, Any]) -> None:
    """Write curves, page and numbers into ``folder``; the numbers last, for they say that the run is finished."""
    folder = Path(folder)
    write_atomic(folder / CURVES, plot_curves(metrics))
    write_text(folder / REPORT, to_markdown(folder, metrics))
    write_json(folder / METRICS, metrics)


def to_markdown(folder: str | Path, metrics: dict[str, Any]) -> str:
    """The whole run as a page."""
    config, results = metrics["config"], metrics["results"]
    lines = [f"# {config['student']} on {config['data']}, seed {config['seed']}", ""]
    columns, metric, unit = headers(metrics), metrics["metric"]["name"], metrics["data"]["unit"]
    lines += ["| " + " | ".join(columns) + " |", "|---" + "|---:" * (len(columns) - 1) + "|"]
    lines += ["| " + " | ".join(row) + " |" for row in table_rows(metrics)]
    lines += ["", f"![{metric.capitalize()} over training steps]({CURVES})", "", "## How it was measured", ""]
    lines += [f"- {line}" for line in _conditions(metrics)]
    lines += ["", "## Training", "", f"| | {unit} | epochs | steps | seconds |", "|---|---:|---:|---:|---:|"]
    for name in ("scratch", "adapted"):
        if (r := results[name]) is not None:
            lines.append(f"| {name} | {r['train_samples']} | {r['epochs']} | {r['steps']} | {r['seconds']:.0f} |")
    versions = ", ".join(f"{name} {version}" for name, version in metrics["versions"].items())
    lines += ["", "## Use the student", "", "```python", load_line(folder).replace("; ", "\n"), "```", ""]
    lines += [f"Every option is in `{RUN}`, every number in `{METRICS}`, what was cloned in [{SUBCLONE}]({SUBCLONE})."]
    lines += ["", f"Made with {versions}.", ""]
    return "\n".join(lines)


def plot_curves(metrics: dict[str, Any]) -> bytes:
    """The main figure over steps as a PNG: scratch and adapted as curves, the teacher as a line."""
    results, metric = metrics["results"], Metric(**metrics["metric"])
    figure = new_figure(7, 4.2, 150)
    axes = figure.add_subplot()
    axes.axhline(results["teacher"][metric.name], color="0.45", linestyle="--", linewidth=1.3, label="teacher")
    styles = {"scratch": ("#c1662f", "s"), "adapted": ("#1f6fb4", "o")}
    for name, (color, marker) in styles.items():
        if (result := results[name]) is None:
            continue
        steps, reached = zip(*((row["step"], row[metric.name]) for row in result["history"]), strict=True)
        axes.plot(steps, reached, color=color, marker=marker, markersize=3.5, linewidth=1.6, label=name)
    axes.set(xlabel="training steps", ylabel=f"test {metric.name}", xlim=(0, None))
    if not metric.higher_is_better:
        axes.set_yscale("log")
    dress(axes, metric.form)
    axes.legend(frameon=False, loc="best")
    config = metrics["config"]
    axes.set_title(f"{config['student']} on {config['data']}, seed {config['seed']}", loc="left", fontsize=11)
    return to_png(figure)


def _steps(results: dict[str, Any], name: str, metric: Metric) -> str:
    scratch, result = results["scratch"], results[name]
    if name == "teacher" or scratch is None:
        return "-"
    row = first_reaching(result["history"], scratch[metric.name], metric)
    if row is None:
        return f"not in {result['steps']}"
    return f"{row['step']:.0f} of {result['steps']} (epoch {row['epoch']:.0f} of {result['epochs']})"


def _conditions(metrics: dict[str, Any]) -> list[str]:
    config, results, data = metrics["config"], metrics["results"], metrics["data"]
    teacher_share, unit = config["teacher"]["fraction"], data["unit"]
    lines = [
        f"The {metrics['metric']['name']} is that of the last epoch on {data['test']} test {unit}, "
        "which decide about nothing.",
        f"The teacher was {_ORIGINS[metrics['teacher']['origin']]}"
        + (f"; its training saw {teacher_share:.0%} of the training data." if results["teacher"]["seconds"] else "."),
        f"The adapted student saw {results['adapted']['train_samples']} of {data['train']} training {unit}, after "
        f"{metrics['coverage']:.1%} of its parameters had been cloned from the teacher.",
    ]
    if scratch := results["scratch"]:
        lines.append(
            f"The scratch baseline is the same network with the same seed, optimiser and schedule, trained by the "
            f"task's loss alone on {scratch['train_samples']} training {unit}."
        )
    lines.append(f"{unit.capitalize()} per second are inference in batches of up to 256, on the machine of this run.")
    return lines
