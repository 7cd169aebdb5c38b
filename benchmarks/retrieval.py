"""Text-video retrieval in miniature: adapted student against scratch baseline on captioned Moving-MNIST, equal steps.

Every run is the one that ``transmamba retrieve --preset moving-mnist --data-dir MNIST --seed S`` makes. The table goes
to the terminal and to ``benchmarks/results/retrieval.json``, which ``make docs`` puts into docs/retrieval.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

import torch
from rich.console import Console

from benchmarks.machine import machine_record
from transmamba.checkpoint import versions
from transmamba.config import preset, to_dict
from transmamba.files import write_json
from transmamba.progress import Bar
from transmamba.retrieve import PRESETS, prepare, retrieve
from transmamba.retrieve.report import NAMES, rich_table

RESULTS = Path(__file__).parent / "results" / "retrieval.json"
_LEFT_OUT = ("history", "loss")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", required=True, help="folder of MNIST's four idx files")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmark"), help="folder of the runs, which resume")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    console, rows = Console(), []
    config = preset("moving-mnist", PRESETS)
    for seed in options.seeds:
        out = str(options.runs / f"moving-mnist-seed{seed}")
        config = dataclasses.replace(config, seed=seed, data_dir=options.data_dir, out_dir=out)
        with Bar(console) as bar:
            results = retrieve(prepare(config), bar, console.print)["results"]
        console.print(rich_table(results, config.student))
        rows.append(
            {
                "seed": seed,
                **{name: {k: v for k, v in results[name].items() if k not in _LEFT_OUT} for name in NAMES},
                "curves": {name: [row["R@1"] for row in results[name]["history"]] for name in NAMES[1:]},
            }
        )
    content = {
        "what": "text-video retrieval on captioned Moving-MNIST, held-out clips after the last epoch",
        "machine": {**machine_record(len(rows)), "threads": torch.get_num_threads()},
        "versions": versions(),
        "config": {k: v for k, v in to_dict(config).items() if k not in ("seed", "out_dir", "data_dir", "threads")},
        "seeds": rows,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    write_json(options.output, content)
    console.print(f"written to {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
