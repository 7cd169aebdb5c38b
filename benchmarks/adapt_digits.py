"""Acceptance in miniature: adapted student against scratch baseline on the digits, over paired seeds.

The adapted student sees 75 % of the training data, the baseline all of it, for equal epochs. Every run is the one that
``transmamba adapt --preset digits --seed S --fraction 0.75`` makes, so it can be repeated alone. The table goes to the
terminal and to ``benchmarks/results/adapt_digits.json``.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import platform
import statistics
import sys
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from transmamba.adapt import adapt, prepare
from transmamba.checkpoint import versions
from transmamba.config import preset, to_dict
from transmamba.files import write_json
from transmamba.progress import Bar
from transmamba.report import first_reaching

RESULTS = Path(__file__).parent / "results" / "adapt_digits.json"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--fraction", type=float, default=0.75, help="of the training data, for the adapted student")
    parser.add_argument("--teacher-fraction", type=float, default=1.0, help="of the training data, for the teacher")
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmark"), help="folder of the runs, which resume")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    console, rows = Console(), []
    config = preset("digits")
    if config.threads:
        torch.set_num_threads(config.threads)
    teacher = dataclasses.replace(config.teacher, fraction=options.teacher_fraction)
    for seed in options.seeds:
        name = f"digits-{options.fraction:g}-teacher-{options.teacher_fraction:g}-seed{seed}"
        config = dataclasses.replace(
            config, seed=seed, fraction=options.fraction, teacher=teacher, out_dir=str(options.runs / name)
        )
        console.rule(f"seed {seed}")
        with Bar(console) as bar:
            metrics = adapt(prepare(config), bar, console.print)
        rows.append({"seed": seed, **summarise(metrics["results"])})
    mean = {name: _mean([row[name] for row in rows]) for name in rows[0] if name != "seed"}
    content = {
        "what": "adapted student against scratch baseline on the digits, last-epoch test accuracy",
        "machine": {"processor": processor(), "cores": os.cpu_count(), "threads": torch.get_num_threads()},
        "versions": versions(),
        "config": {name: value for name, value in to_dict(config).items() if name not in ("seed", "out_dir")},
        "seeds": rows,
        "mean": mean,
    }
    console.print(table(rows, mean, config.epochs))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    write_json(options.output, content)
    console.print(f"written to {options.output}")
    return 0


def summarise(results: dict[str, Any]) -> dict[str, Any]:
    """Accuracies, images, steps, and the epochs after which scratch's last accuracy was first reached."""
    scratch, adapted = results["scratch"], results["adapted"]
    reached = first_reaching(adapted["history"], scratch["accuracy"])
    own = first_reaching(scratch["history"], scratch["accuracy"])
    return {
        "teacher": results["teacher"]["accuracy"],
        "scratch": scratch["accuracy"],
        "adapted": adapted["accuracy"],
        "scratch_images": scratch["train_samples"],
        "adapted_images": adapted["train_samples"],
        "scratch_steps": scratch["steps"],
        "adapted_steps": adapted["steps"],
        "scratch_own_epochs": own["epoch"] if own else None,
        "adapted_epochs_to_scratch": reached["epoch"] if reached else None,
        "adapted_steps_to_scratch": reached["step"] if reached else None,
    }


def table(rows: list[dict[str, Any]], mean: dict[str, Any], epochs: int) -> Table:
    """One row per seed, and their mean."""
    result = Table(caption=f"{epochs} epochs each; accuracy of the last epoch on the test images")
    headers = ("seed", "teacher", "scratch", "adapted", "difference", "scratch's accuracy after", "images", "steps")
    for header in headers:
        result.add_column(header, justify="right")
    for row in [*rows, {"seed": "mean", **mean}]:
        reached = row["adapted_epochs_to_scratch"]
        result.add_row(
            str(row["seed"]),
            *(f"{row[name]:.2%}" for name in ("teacher", "scratch", "adapted")),
            f"{100 * (row['adapted'] - row['scratch']):+.2f}",
            "not reached" if reached is None else f"{reached:.3g} epochs",
            f"{row['adapted_images']:.0f} / {row['scratch_images']:.0f}",
            f"{row['adapted_steps']:.0f} / {row['scratch_steps']:.0f}",
            style="bold" if row["seed"] == "mean" else None,
        )
    return result


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if len(known) == len(values) else None


def processor() -> str:
    """What the operating system calls this machine's processor."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    sys.exit(main())
