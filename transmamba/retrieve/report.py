"""What a retrieval run gave: a table, a page, curves, what was found for some texts, and the numbers behind them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from transmamba.files import write_atomic, write_json, write_text
from transmamba.pictures import new_figure, to_png
from transmamba.report import plot_curves
from transmamba.retrieve.data import VideoData, describe_left_out
from transmamba.retrieve.retriever import Retriever, embeddings
from transmamba.run_folder import CURVES, FRAMES, METRICS, REPORT, RUN, SUBCLONE

NAMES = ("teacher", "scratch", "adapted")
WAYS = {"text to video": "", "video to text": "video to text "}
_FIGURES = ("R@1", "R@5", "R@10", "median rank", "mean rank")
_TEXTS, _SHOWN = 4, 3  # texts in the picture, and videos found for each


def headers() -> tuple[str, ...]:
    """Of the columns of the final table."""
    return "", "", *_FIGURES


def table_rows(results: dict[str, Any]) -> list[tuple[str, ...]]:
    """The final table, a row of texts for each way of teacher, scratch and adapted, as far as they are there."""
    return [
        (name if way == "text to video" else "", way, *figures(result, prefix))
        for name in NAMES
        if (result := results.get(name)) is not None
        for way, prefix in WAYS.items()
    ]


def figures(measured: dict[str, float], prefix: str = "") -> tuple[str, ...]:
    """What was measured in one way, as people read it."""
    return tuple(
        f"{measured[prefix + name]:.1%}" if name.startswith("R@") else f"{measured[prefix + name]:.4g}"
        for name in _FIGURES
    )


def rich_table(results: dict[str, Any], student: str) -> Any:
    """The final table as a ``rich.table.Table``."""
    from rich.table import Table

    table = Table(header_style="bold", caption=f"teacher: CLIP, mean over frames; scratch and adapted: {student}")
    for i, header in enumerate(headers()):
        table.add_column(header, justify="right" if i > 1 else "left")
    for row in table_rows(results):
        table.add_row(*row, style="bold green" if row[:2] == ("adapted", "text to video") else None)
    return table


def write_report(folder: Path, metrics: dict[str, Any], retriever: Retriever, data: VideoData) -> None:
    """Write pictures, page and numbers into ``folder``; the numbers last, for they say that the run is finished."""
    write_atomic(folder / CURVES, plot_curves(metrics))
    write_atomic(folder / FRAMES, plot_found(retriever, data))
    write_text(folder / REPORT, to_markdown(metrics))
    write_json(folder / METRICS, metrics)


def to_markdown(metrics: dict[str, Any]) -> str:
    """The whole run as a page."""
    config, results, data = metrics["config"], metrics["results"], metrics["data"]
    lines = [f"# {config['student']} on {config['data']}, seed {config['seed']}", ""]
    lines += ["| " + " | ".join(headers()) + " |", "|---|---" + "|---:" * len(_FIGURES) + "|"]
    lines += ["| " + " | ".join(row) + " |" for row in table_rows(results)]
    lines += ["", f"![R@1 over training steps]({CURVES})", "", f"![What was found for some texts]({FRAMES})", ""]
    lines += ["## How it was measured", ""]
    lines += [
        f"- Each of {data['test']} held-out texts is looked up among {data['test_videos']} held-out videos, and the "
        "other way round, after the last epoch; they decide about nothing.",
        "- A rank is 1 plus how many wrong ones are at least as similar: ties count as not found.",
        f"- The teacher is a CLIP that sees frames one by one and takes their mean ({metrics['teacher']['origin']}).",
        f"- Of the student's parameters {metrics['coverage']:.1%} were cloned from it.",
    ]
    if results["scratch"]:
        lines.append(
            "- The scratch baseline is the same network with the same seed, optimiser, schedule and steps, trained by "
            "the contrastive loss alone."
        )
    lines += [f"- {line}" for line in describe_left_out(data["left_out"])]
    lines += ["", "## Training", "", "| | parameters | pairs | epochs | steps | seconds |"]
    lines += ["|---|---:|---:|---:|---:|---:|"]
    lines += [
        f"| {name} | {r['parameters']:,} | {r['train_pairs']} | {r['epoch']:.0f} | {r['steps']} | {r['seconds']:.0f} |"
        for name in NAMES[1:]
        if (r := results[name]) is not None
    ]
    versions = ", ".join(f"{name} {version}" for name, version in metrics["versions"].items())
    lines += ["", f"The teacher's training took {results['teacher']['seconds']:.0f} s.", "", "## Search", ""]
    lines += ["```bash", f'transmamba retrieve search {config["out_dir"] or "RUN"} VIDEO_FOLDER "TEXT"', "```", ""]
    lines += [f"Every option is in `{RUN}`, every number in `{METRICS}`, what was cloned in [{SUBCLONE}]({SUBCLONE})."]
    lines += ["", f"Made with {versions}.", ""]
    return "\n".join(lines)


def plot_found(retriever: Retriever, data: VideoData) -> bytes:
    """A PNG with some test texts, and the frames of the videos that were found for each; the right one is green."""
    test = data.test
    text, video = embeddings(retriever.model, test)
    texts = torch.linspace(0, len(text) - 1, min(_TEXTS, len(text))).long()
    found = (text[texts] @ video.t()).topk(min(_SHOWN, len(video))).indices
    titles = [data.test_texts[i] for i in texts]
    strips = [[_strip(test.clips[test.rows[place]]) for place in row] for row in found]
    right = [[bool(place == test.video_of_text[i]) for place in row] for i, row in zip(texts, found, strict=True)]
    return plot_strips(titles, strips, right)


def plot_strips(
    titles: Sequence[str], strips: Sequence[Sequence[np.ndarray]], right: Sequence[Sequence[bool]]
) -> bytes:
    """A PNG with a row for each title: images ``(H, W, 3)``, those that are right in a green frame."""
    columns = max(len(row) for row in strips)
    figure = new_figure(3.4 * columns, 0.95 * len(strips), 110)
    grid = figure.subplots(len(strips), columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for row, (title, images, marks) in enumerate(zip(titles, strips, right, strict=True)):
        grid[row, 0].set_title(title, loc="left", fontsize=9)
        for axes, image, mark in zip(grid[row], images, marks, strict=False):
            axes.imshow(image)
            axes.set_axis_on()
            axes.set(xticks=[], yticks=[])
            for spine in axes.spines.values():
                spine.set(color="#2ca02c" if mark else "0.7", linewidth=2.5 if mark else 0.8)
    return to_png(figure)


def _strip(clip: np.ndarray) -> np.ndarray:
    """Frames ``(channels, frames, H, W)`` side by side, ``(H, frames * W, 3)``."""
    image = np.concatenate(list(clip.transpose(1, 2, 3, 0)), axis=1)
    return np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image
