"""Put finished runs on text among the results: ``python -m benchmarks.language runs/text-seed0 runs/sentences-seed0``.

Each run, as ``transmamba adapt --preset smollm2-enwik8`` or ``minilm-enwik8`` leaves it, becomes
``benchmarks/results/language/<data>.json`` and its curves ``docs/figures/<data>.png``; ``make docs`` then writes the
tables of docs/language.md.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from benchmarks.machine import cpu_model
from transmamba.files import write_json
from transmamba.run_folder import CURVES, METRICS

RESULTS = Path(__file__).parent / "results" / "language"
FIGURES = Path(__file__).parents[1] / "docs" / "figures"
_PLACES = ("out_dir", "data_dir")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="folders of finished runs")
    RESULTS.mkdir(parents=True, exist_ok=True)
    for folder in parser.parse_args().runs:
        metrics = json.loads((folder / METRICS).read_text(encoding="utf-8"))
        name = metrics["config"]["data"]
        write_json(RESULTS / f"{name}.json", content(metrics))
        shutil.copyfile(folder / CURVES, FIGURES / f"{name}.png")
        print(f"{folder}: written to {RESULTS / name}.json")
    return 0


def content(metrics: dict[str, Any]) -> dict[str, Any]:
    """What a run measured, without the places where its files lie."""
    config = {name: value for name, value in metrics["config"].items() if name not in _PLACES}
    teacher = {name: value for name, value in config.pop("teacher").items() if name != "path"}
    return {
        "machine": {"processor": cpu_model(), "cores": os.cpu_count(), "threads": config["threads"]},
        "config": {**config, "teacher": teacher},
        **{name: metrics[name] for name in ("versions", "data", "metric", "coverage", "results")},
    }


if __name__ == "__main__":
    sys.exit(main())
