"""Put finished grids and runs on images among the results: ``python -m benchmarks.ablation runs/ablate-digits``.

The folder of a grid, as ``transmamba ablate`` leaves it, becomes ``benchmarks/results/ablation/<data>.json`` and its
curves ``docs/figures/ablation-<data>.png``; that of a run of ``transmamba adapt`` becomes
``benchmarks/results/runs/<data>-<student>.json``. ``make docs`` then writes the tables of README and of
docs/adaptation.md.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

from benchmarks import language
from benchmarks.machine import cpu_model
from transmamba.ablation_report import CURVE, NUMBERS
from transmamba.files import write_json
from transmamba.run_folder import METRICS

RESULTS = Path(__file__).parent / "results"
FIGURES = Path(__file__).parents[1] / "docs" / "figures"
_PLACES = ("out_dir", "data_dir")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", help="of grids and runs")
    for folder in parser.parse_args().folders:
        if (folder / METRICS).exists():
            run = language.content(json.loads((folder / METRICS).read_text(encoding="utf-8")))
            _write(folder, RESULTS / "runs" / f"{run['config']['data']}-{run['config']['student']}.json", run)
            continue
        content = json.loads((folder / NUMBERS).read_text(encoding="utf-8"))
        name = content["config"]["data"]
        content["config"] = {key: value for key, value in content["config"].items() if key not in _PLACES}
        _write(folder, RESULTS / "ablation" / f"{name}.json", {**content, "processor": cpu_model()})
        shutil.copyfile(folder / CURVE, FIGURES / f"ablation-{name}.png")
    return 0


def _write(folder: Path, path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, content)
    print(f"{folder}: written to {path}")


if __name__ == "__main__":
    sys.exit(main())
