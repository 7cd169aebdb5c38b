"""The tables of trainings, from their results: one function each, called by ``docs.measured``."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

from transmamba.ablation_report import SHARES, row_of, to_markdown
from transmamba.report import first_reaching
from transmamba.tasks import Metric
from transmamba.vqa.report import table_rows


def adaptation(content: dict) -> str:
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


def ablation(content: dict) -> str:
    config = content["config"]
    lines = [
        f"{config['student']} on {config['data']}, {config['epochs']} epochs; the base sees {config['fraction']:.0%} "
        f"of the training data, scratch {config['scratch_fraction']:.0%}. One thread of {content['processor']}.",
        "",
    ]
    return "\n".join(lines) + to_markdown(content)


def runs(results: Path) -> str:
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


def run_on_text(content: dict) -> str:
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


def retrieval(content: dict) -> str:
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


def questions(content: dict) -> str:
    config, results, data, machine = (content[name] for name in ("config", "results", "data", "machine"))
    lines = [
        f"{config['epochs']} epochs of {data['train_questions']:,} questions about {data['train_images']:,} images, "
        f"{results['steps']:,} steps, {results['seconds'] / 60:.0f} minutes on {machine['threads']} thread of "
        f"{machine['cpu']}; seed {config['seed']}. Accuracy on "
        f"{data['test_questions']:,} questions about {data['test_images']:,} other images:",
        "",
        "| | accuracy |",
        "|---|---:|",
        *(f"| {name} | {value} |" for name, value in table_rows(results)),
    ]
    return "\n".join(lines) + "\n"


def cross_modal(content: dict) -> str:
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


def answers(content: dict) -> str:
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
