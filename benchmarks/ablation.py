"""Put a finished grid among the results: ``python -m benchmarks.ablation runs/ablate-digits``.

The folder, as ``transmamba ablate`` leaves it, becomes ``benchmarks/results/ablation/<data>.json`` and its curves
``docs/figures/ablation-<data>.png``; ``make docs`` then writes the tables of README and docs/adaptation.md.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

from benchmarks.machine import cpu_model
from transmamba.ablation_report import CURVE, NUMBERS
from transmamba.files import write_json

RESULTS = Path(__file__).parent / "results" / "ablation"
FIGURES = Path(__file__).parents[1] / "docs" / "figures"
_PLACES = ("out_dir", "data_dir")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", help="of grids")
    RESULTS.mkdir(parents=True, exist_ok=True)
    for folder in parser.parse_args().folders:
        content = json.loads((folder / NUMBERS).read_text(encoding="utf-8"))
        name = content["config"]["data"]
        content["config"] = {key: value for key, value in content["config"].items() if key not in _PLACES}
        write_json(RESULTS / f"{name}.json", {**content, "processor": cpu_model()})
        shutil.copyfile(folder / CURVE, FIGURES / f"ablation-{name}.png")
        print(f"{folder}: written to {RESULTS / name}.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
