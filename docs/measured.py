"""Write the measured tables of README and docs/: from benchmarks/results/*.json into the pages, between markers.

``python -m docs.measured`` rewrites the pages, ``python -m docs.measured --check`` fails where one differs from the
measurements. No figure in these pages is typed by hand.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

from benchmarks.gpu import floors
from benchmarks.gpu.chip import H200
from benchmarks.gpu.test_selective_scan import TARGETS as GPU_TARGETS
from benchmarks.rows import Row, load
from transmamba.ablation_report import SHARES, row_of, to_markdown
from transmamba.report import first_reaching
from transmamba.tasks import Metric
from transmamba.vqa.report import table_rows

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
        return _runs(results)
    trained = {ADAPTATION: ("ablation/digits.json", _adaptation), RETRIEVED: ("retrieval.json", _retrieval)}
    trained[CROSS_MODAL] = ("cross_modal.json", _cross_modal)
    trained[EASY_VQA] = (f"vqa/{EASY_VQA}.json", _questions)
    trained |= {section: (f"ablation/{name}.json", _ablation) for section, name in ABLATIONS.items()}
    trained |= {name: (f"language/{name}.json", _run_on_text) for name in LANGUAGE}
    trained |= {ANSWERS: (f"{ANSWERS}.json", _answers)}
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


def _adaptation(content: dict) -> str:
    seeds, epochs = len(content["rows"]["base"]["seeds"]), content["config"]["epochs"]
    shown = {"scratch": "Mamba from scratch"}
    shown |= {f"data-{share}": f"the same Mamba, adapted, {share} % of the data" for share in SHARES}
    lines = [
        f"Means over {seeds} seeds (`transmamba ablate`), {epochs} epochs each; accuracy of the last epoch on the test "
        "images:",
        "",
        "| | images | steps | accuracy |",
        "|---|---:|---:|---:|",
        f"| teacher, a ViT | | | {content['teacher']['mean']:.2%} |",
    ]
    for name, what in shown.items():
        row = row_of(content, name)
        images, steps = (statistics.fmean(cell[n] for cell in row["seeds"].values()) for n in ("samples", "steps"))
        lines.append(f"| {what} | {images:.0f} | {steps:.0f} | {row['reached']['mean']:.2%} |")
    return "\n".join(lines) + "\n"


def _ablation(content: dict) -> str:
    config = content["config"]
    lines = [
        f"{config['student']} on {config['data']}, {config['epochs']} epochs; the base sees {config['fraction']:.0%} "
        f"of the training data, scratch {config['scratch_fraction']:.0%}. One thread of {content['processor']}.",
        "",
    ]
    return "\n".join(lines) + to_markdown(content)


def _runs(results: Path) -> str:
    lines = [
        "| student | data | epochs | images, adapted | scratch | teacher | scratch | adapted |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for path in sorted((results / "runs").glob("*.json")):
        content = json.loads(path.read_text())
        config, found = content["config"], content["results"]
        images = [f"{found[name]['train_samples']}" for name in ("adapted", "scratch")]
        reached = [f"{found[name]['accuracy']:.2%}" for name in ("teacher", "scratch", "adapted")]
        lines.append(
            "| " + " | ".join([config["student"], config["data"], str(config["epochs"]), *images, *reached]) + " |"
        )
    return "\n".join(lines) + "\n"


def _run_on_text(content: dict) -> str:
    config, results, metric = content["config"], content["results"], Metric(**content["metric"])
    last = results["adapted"]["history"][-1]
    other = next(name for name in ("bits_per_byte", "agreement") if name in last)
    unit, steps = content["data"]["unit"], results["adapted"]["steps"]
    lines = [
        f"{config['epochs']} epochs of {content['data']['train']} {unit}, {steps} steps, on one thread "
        f"of {content['machine']['processor']}; {content['data']['test']} held-out {unit}; seed {config['seed']}.",
        "",
        f"| | {metric.name} | {other.replace('_', ' ')} | parameters | seconds |",
        "|---|---:|---:|---:|---:|",
        f"| teacher | {metric.text(results['teacher'][metric.name])} | | {results['teacher']['parameters']:,} | |",
    ]
    for name in ("scratch", "adapted"):
        row, reached = results[name], results[name]["history"][-1]
        what = f"{config['student']} from scratch" if name == "scratch" else "the same, adapted"
        lines.append(
            f"| {what} | {metric.text(reached[metric.name])} | {reached[other]:.3f} | {row['parameters']:,} "
            f"| {row['seconds']:.0f} |"
        )
    if not metric.higher_is_better:
        ratio = results["adapted"][metric.name] / results["scratch"][metric.name]
        lines += ["", f"Adapted over scratch: {ratio:.2f}."]
    first = first_reaching(results["adapted"]["history"], results["scratch"][metric.name], metric)
    lines += [
        "",
        f"The adapted student reaches what scratch ends with after {first['step']} steps."
        if first
        else "The adapted student does not become as good as the one from scratch.",
    ]
    return "\n".join(lines) + "\n"


def _retrieval(content: dict) -> str:
    config, machine = content["config"], content["machine"]
    lines = [
        f"Seeds {', '.join(str(row['seed']) for row in content['seeds'])} (`python -m benchmarks.retrieval`), "
        f"{config['epochs']} epochs of {config['train_clips']} clips, {config['test_clips']} held-out clips, on "
        f"{machine['threads']} thread of {machine['cpu']}, torch {machine['torch']}, commit `{machine['commit']}`:",
        "",
        "| seed | | steps | R@1 | R@5 | R@10 | median rank | mean rank | R@1, video to text | its median rank |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    names = {
        "teacher": "CLIP, mean over frames",
        "scratch": "Mamba from scratch",
        "adapted": "the same Mamba, adapted",
    }
    shown = ("R@1", "R@5", "R@10", "median rank", "mean rank", "video to text R@1", "video to text median rank")
    for row in content["seeds"]:
        for name, what in names.items():
            figures = [f"{row[name][key]:{'.1%' if 'R@' in key else '.4g'}}" for key in shown]
            lines.append("| " + " | ".join([str(row["seed"]), what, str(row[name].get("steps", "")), *figures]) + " |")
    return "\n".join(lines) + "\n"


def _questions(content: dict) -> str:
    config, results, data, machine = (content[name] for name in ("config", "results", "data", "machine"))
    lines = [
        f"{config['epochs']} epochs of {data['train_questions']:,} questions about {data['train_images']:,} images, "
        f"{results['steps']:,} steps, {results['seconds'] / 60:.0f} minutes on {machine['threads']} thread of "
        f"{machine['cpu']} that did other work too; seed {config['seed']}. Accuracy on "
        f"{data['test_questions']:,} questions about {data['test_images']:,} other images:",
        "",
        "| | accuracy |",
        "|---|---:|",
        *(f"| {name} | {value} |" for name, value in table_rows(results)),
    ]
    return "\n".join(lines) + "\n"


def _cross_modal(content: dict) -> str:
    variants: dict[str, list[dict[str, float]]] = {}
    for key, accuracies in content["runs"].items():
        variants.setdefault(key.rpartition(", seed ")[0], []).append(accuracies)
    shown = list(next(iter(content["runs"].values())))
    machine, seeds = content["machine"], sorted({len(runs) for runs in variants.values()})
    lines = [
        f"Mean accuracy over seeds ({' or '.join(map(str, seeds))} of them) after so many steps of {content['batch']}; "
        f"chance is 16.7 %, and 25 % for who sees the shapes but not the question. {machine['cpu']}, torch "
        f"{machine['torch']}, commit `{machine['commit']}`:",
        "",
        "| |" + "".join(f" {steps} |" for steps in shown) + " lowest and highest at the end |",
        "|---|" + "---:|" * (len(shown) + 1),
    ]
    for name, runs in variants.items():
        means = [f"{sum(run[steps] for run in runs) / len(runs):.1%}" for steps in shown]
        last = [run[shown[-1]] for run in runs]
        lines.append("| " + " | ".join([name, *means, f"{min(last):.1%}, {max(last):.1%}"]) + " |")
    return "\n".join(lines) + "\n"


def _answers(content: dict) -> str:
    options, kinds, blind = content["options"], content["by_kind"], content["baselines"]
    lines = [
        f"{options['questions']} questions, {options['epochs']} epochs of batches of {options['batch_size']} "
        f"({content['history'][-1]['step']} steps, {content['seconds'] / 60:.0f} minutes), one seed; a language model "
        f"of {options['depth']} layers of width {options['d_model']}. Of {options['held_out']} questions about images "
        "that were held out, answered right:",
        "",
        "| | questions | right |",
        "|---|---|---|",
        f"| all | {options['held_out']} | {content['accuracy']:.1%} |",
        *(f"| {kind} | {row['questions']} | {row['accuracy']:.1%} |" for kind, row in sorted(kinds.items())),
        *(f"| without the image: {name} | {options['held_out']} | {value:.1%} |" for name, value in blind.items()),
        "",
        "The first of them:",
        "",
        "| question | answer | generated |",
        "|---|---|---|",
        *(f"| {e['question']} | {e['answer']} | {e['generated']} |" for e in content["examples"][:8]),
    ]
    return "\n".join(lines) + "\n"


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
