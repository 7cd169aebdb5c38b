"""Write the measured tables of README and docs/: from benchmarks/results/*.json into the pages, between markers.

``python -m docs.measured`` rewrites the pages, ``python -m docs.measured --check`` fails where one differs from the
measurements. No figure in these pages is typed by hand.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.gpu import floors
from benchmarks.gpu.chip import H200
from benchmarks.gpu.test_selective_scan import TARGETS as GPU_TARGETS
from benchmarks.rows import Row, load
from docs import trainings

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
FIGURES = ROOT / "docs" / "figures.md"
GPU = ROOT / "docs" / "gpu_kernels.md"
VISION_LANGUAGE = ROOT / "docs" / "vision_language.md"
RESULTS = ROOT / "benchmarks" / "results"
ADAPTING = ROOT / "docs" / "adaptation.md"
RETRIEVAL = ROOT / "docs" / "retrieval.md"
ADAPTATION = "adaptation"  # tables of their own; every other section is named after an op, or for all of them:
ABLATIONS = {"ablation of digits": "digits"}
RUNS = "other students and data"
RETRIEVED = "moving-mnist"
CROSS_MODAL = "cross-modal"
EASY_VQA = "easy-vqa"
LANGUAGE = ("text", "sentences")  # runs on text
TARGETS = "targets"  # everything that was set out to be reached
ANSWERS = "llava_easy_vqa"  # of a miniature
GENERATION = "generation"  # of a language model, beside a Transformer
BESIDE_OTHERS = "beside others"  # of that, what compares with other libraries
OPENS, CLOSES = "<!-- measured: {section} -->\n", "<!-- end of measured -->"
NOTHING = "Nothing is measured yet; `make bench` measures this machine.\n"
FLOORS = "floors"  # computed, of the shapes that have targets on a GPU
ON_A_GPU = " on a GPU"  # behind a section's name: of the same, what was measured there
NOTHING_ON_A_GPU = "Not yet measured; `make gpu` measures a machine with a GPU.\n"
_OURS = ("1 thread", "2 threads", "copy")  # of what stands beside ours, no library


def page_of(op: str) -> Path:
    """The page that documents an op."""
    return ROOT / "docs" / f"{op}.md"


def ops() -> list[str]:
    """Ops that have a page with a place for measurements."""
    return sorted(p.stem for p in (ROOT / "docs").glob("*.md") if OPENS.format(section=p.stem) in p.read_text())


def fill(page: str, section: str, results: Path = RESULTS) -> str:
    """Return ``page`` with the tables of ``section`` between its markers."""
    before, rest = page.split(OPENS.format(section=section))
    _, after = rest.split(CLOSES, 1)
    nothing = NOTHING_ON_A_GPU if section.endswith(ON_A_GPU) else NOTHING
    return before + OPENS.format(section=section) + (_text(section, results) or nothing) + CLOSES + after


def _text(section: str, results: Path) -> str:
    if section == FLOORS:
        return _floors()
    if section == RUNS:
        return trainings.runs(results)
    trained = {
        ADAPTATION: ("ablation/digits.json", trainings.adaptation),
        RETRIEVED: ("retrieval.json", trainings.retrieval),
    }
    trained[CROSS_MODAL] = ("cross_modal.json", trainings.cross_modal)
    trained[EASY_VQA] = (f"vqa/{EASY_VQA}.json", trainings.questions)
    trained |= {section: (f"ablation/{name}.json", trainings.ablation) for section, name in ABLATIONS.items()}
    trained |= {name: (f"language/{name}.json", trainings.run_on_text) for name in LANGUAGE}
    trained |= {ANSWERS: (f"{ANSWERS}.json", trainings.answers)}
    if section in trained:
        name, table = trained[section]
        return table(json.loads((results / name).read_text())) if (results / name).exists() else ""
    speeds = sorted(set(results.glob("*.json")) - {results / name for name, _ in trained.values()})
    return "\n".join(table for path in speeds if (table := _table(section, *load(path))))


def _floors() -> str:
    lines = [
        "| (batch, d_inner, length, d_state) | exponentials | bytes, forward | moved in | forward | backward |",
        "|---|---|---|---|---|---|",
    ]
    for shape in dict.fromkeys(shape for shape, _ in GPU_TARGETS):
        forward, backward = floors.scan_forward(shape), floors.scan_backward(shape)
        lines.append(
            f"| {shape} | {forward.special / 1e6:.0f} M | {forward.bytes / 1e6:.0f} MB "
            f"| {1e6 * forward.bytes / H200.bandwidth:.3g} us | {_time(forward)} | {_time(backward)} |"
        )
    return "\n".join(lines) + "\n"


def _time(work: floors.Work) -> str:
    found = work.floor(H200)
    return f"{1e6 * found.seconds:.3g} us ({found.unit})"


def _table(section: str, machine: dict[str, Any], rows: list[Row]) -> str:
    device = "gpu" if section.endswith(ON_A_GPU) else "cpu"
    section, rows = section.removesuffix(ON_A_GPU), [row for row in rows if row.device == device]
    overview = section in (TARGETS, BESIDE_OTHERS)
    if section == BESIDE_OTHERS:
        rows = [row for row in rows if row.target and not row.at_most and row.unit == "x" and row.peer not in _OURS]
        rows = [row for row in rows if row.op != GENERATION]  # a model, not an op
    else:
        rows = [row for row in rows if (row.target is not None if overview else row.op == section)]
    if not rows:
        return ""
    changed = " with uncommitted changes" if machine["uncommitted_changes"] else ""
    lines = [
        f"Measured {machine['date']} at commit `{machine['commit']}`{changed}: {_on(machine, device)}, "
        f"torch {machine['torch']}, {machine['rounds']} interleaved rounds.",
        "",
        f"|{' op |' * overview} case | figure | ours | beside | value | target | |",
        f"|{'---|' * overview}---|---|---|---|---|---|---|",
    ]
    lines += ["| " + " | ".join([row.op] * overview + list(row.cells())) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _on(machine: dict[str, Any], device: str) -> str:
    if device == "cpu":
        return f"{machine['cpu']}, {machine['instruction_set']}"
    peers = "".join(f", {name} {version}" for name, version in machine["peers"].items())
    return (
        f"{machine['gpu']} (driver {machine['driver']}, at most {machine['clocks']['max.sm']}), "
        f"CUDA {machine['cuda']}, nvcc {machine['nvcc']}, Triton {machine['triton']}{peers}"
    )


def main(check: bool) -> int:
    """Rewrite the pages, or with ``check`` only compare them; return how many differ."""
    stale = 0
    pages = {
        README: [ADAPTATION, BESIDE_OTHERS, BESIDE_OTHERS + ON_A_GPU],
        FIGURES: [TARGETS],
        ADAPTING: [*ABLATIONS, RUNS],
    }
    pages |= {RETRIEVAL: [RETRIEVED], ROOT / "docs" / "language.md": list(LANGUAGE)}
    pages[ROOT / "docs" / "vqa.md"] = [EASY_VQA, CROSS_MODAL]
    pages |= {VISION_LANGUAGE: [ANSWERS, GENERATION]}
    pages |= {GPU: [FLOORS, *(op + ON_A_GPU for op in ops())], **{page_of(op): [op] for op in ops()}}
    for page, sections in pages.items():
        old = new = page.read_text()
        for section in sections:
            new = fill(new, section)
        if new == old:
            continue
        stale += 1
        print(f"{page.relative_to(ROOT)}: {'differs from the measurements; run `make docs`' if check else 'written'}")
        if not check:
            page.write_text(new)
    return stale


if __name__ == "__main__":
    stale_pages = main("--check" in sys.argv[1:])
    sys.exit(1 if stale_pages and "--check" in sys.argv[1:] else 0)
