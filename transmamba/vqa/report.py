"""What a run of visual question answering gave: a table, a page, questions with their images, and the numbers."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

from torch import Tensor

from transmamba.files import write_atomic, write_json, write_text
from transmamba.pictures import new_figure, to_png
from transmamba.run_folder import METRICS, PICTURES, REPORT, RUN
from transmamba.tasks.vqa import VqaData, question_pairs

_RIGHT, _WRONG = "#1d7a3c", "#b3261e"
_SHOWN = 8  # images
_NAMES = {
    "accuracy": "all test questions",
    "same_image": "two questions about one image, both right",
    "shuffled_questions": "questions shuffled between images",
    "question_only": "question alone: its commonest answer",
    "majority": "commonest answer to anything",
}


def table_rows(results: dict[str, Any]) -> list[tuple[str, str]]:
    """What was measured and the accuracy, as texts: the model first, then each kind of question, then what is blind."""
    whole, *blind = ((text, f"{results[name]:.2%}") for name, text in _NAMES.items())
    kinds = [(f"- {name}", f"{value:.2%}") for name, value in results["kinds"].items()]
    return [whole, *kinds, *blind]


def rich_table(results: dict[str, Any], caption: str) -> Any:
    """The table as a ``rich.table.Table``."""
    from rich.table import Table

    table = Table(header_style="bold", caption=caption)
    table.add_column("")
    table.add_column("accuracy", justify="right")
    for i, row in enumerate(table_rows(results)):
        table.add_row(*row, style=None if i else "bold green")
    return table


def write_report(folder: Path, metrics: dict[str, Any], data: VqaData, predicted: Tensor) -> None:
    """Write pictures, page and numbers into ``folder``; the numbers last, for they say that the run is finished."""
    pairs = question_pairs(data.test)[:_SHOWN]
    write_atomic(folder / PICTURES, plot_answers(data, predicted, pairs))
    write_text(folder / REPORT, to_markdown(folder, metrics, data, predicted, pairs))
    write_json(folder / METRICS, metrics)


def to_markdown(folder: Path, metrics: dict[str, Any], data: VqaData, predicted: Tensor, pairs: Tensor) -> str:
    """The whole run as a page."""
    config, results, sizes = metrics["config"], metrics["results"], metrics["data"]
    lines = [f"# {config['student']} answers {config['data']}, mode {config['mode']}, seed {config['seed']}", ""]
    lines += ["| | accuracy |", "|---|---:|", *(f"| {name} | {value} |" for name, value in table_rows(results))]
    lines += ["", f"![Images, questions and answers]({PICTURES})", "", "## What the question changes", ""]
    lines += ["| image | question | answer | right answer |", "|---:|---|---|---|"]
    for i in pairs.flatten().tolist():
        given, right = (data.answers[int(found[i])] for found in (predicted, data.test.answers))
        lines.append(f"| {int(data.test.image[i])} | {data.test.texts[i]} | {given} | {right} |")
    lines += ["", "## How it was measured", ""]
    lines += [
        f"- Trained on {sizes['train_questions']:,} questions about {sizes['train_images']:,} images in "
        f"{config['epochs']} epochs, {results['steps']:,} steps, {results['seconds']:.0f} s; "
        f"{results['parameters']:,} parameters.",
        f"- Accuracy is that of the last epoch on {sizes['test_questions']:,} questions about "
        f"{sizes['test_images']:,} other images, which decide about nothing.",
        "- Shuffled: each image is asked what was meant for another, and the right answer is still its own question's.",
        "- A question's commonest answer is counted in the training part, word by word the same question.",
    ]
    if config["start"] is not None:
        lines.append(f"- The visual model was not fresh: it came from {config['start']}, with a new head.")
    versions = ", ".join(f"{name} {version}" for name, version in metrics["versions"].items())
    lines += ["", "## Ask it", "", "```bash", f'transmamba vqa ask {folder} IMAGE "QUESTION"', "```", ""]
    lines += [f"Every option is in `{RUN}`, every number in `{METRICS}`.", "", f"Made with {versions}.", ""]
    return "\n".join(lines)


def plot_answers(data: VqaData, predicted: Tensor, pairs: Tensor) -> bytes:
    """Images with two questions below each and the answers given, as a PNG; a wrong one has the right one beside it."""
    columns = 4
    rows = -(-len(pairs) // columns)
    figure = new_figure(11, 3.1 * rows, 100)
    for place, pair in enumerate(pairs.tolist()):
        axes = figure.add_subplot(rows, columns, place + 1)
        axes.imshow(data.test.images[data.test.image[pair[0]]].permute(1, 2, 0).numpy())
        axes.set_axis_off()
        for line, i in enumerate(pair):
            given, right = int(predicted[i]), int(data.test.answers[i])
            answer = data.answers[given] if given == right else f"{data.answers[given]} (not {data.answers[right]})"
            text = f"{textwrap.fill(data.test.texts[i], 36)}\n{answer}"
            axes.text(
                0.5, -0.03 - 0.27 * line, text, transform=axes.transAxes, ha="center", va="top", fontsize=8,
                color=_RIGHT if given == right else _WRONG,
            )  # fmt: skip
    return to_png(figure)
