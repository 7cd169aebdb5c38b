"""``transmamba vqa``: train a student to answer questions about images, measure it, or ask it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from transmamba.adapt import usable_device
from transmamba.commands.parsing import BadInputError, parse, parse_run, prepare_run, refusing, use_threads
from transmamba.progress import Bar
from transmamba.tasks.vqa import load_vqa
from transmamba.vqa import PRESETS, Answerer, VqaConfig, evaluate, prepare, train
from transmamba.vqa.report import rich_table


@dataclasses.dataclass(frozen=True)
class Options:
    """Train a student to answer questions about images. `transmamba vqa eval` and `transmamba vqa ask` use it.

    Options of a preset count first, then those of a config file, then those given here.

    Attributes:
        preset: Options to begin with: "easy-vqa" or "sort-of-clevr".
        config: YAML or JSON file with options, named as here; nested ones as mappings.
        overwrite: Replace the run that the folder holds.
        run: Options of the run.
    """

    preset: str = "easy-vqa"
    config: Path | None = None
    overwrite: bool = False
    run: Annotated[VqaConfig, tyro.conf.arg(name="")] = dataclasses.field(default_factory=VqaConfig)


@dataclasses.dataclass(frozen=True)
class EvalOptions:
    """How many test questions the model of a run answers, and how many it would without image or question.

    Attributes:
        folder: Folder of the run.
        data_dir: Folder of the data of easy-VQA, if its package is not installed.
        threads: CPU threads; torch's choice if not given.
        device: Where to compute, such as "cpu" or "cuda".
    """

    folder: Annotated[Path, tyro.conf.Positional]
    data_dir: str | None = None
    threads: int | None = None
    device: str = "cpu"


@dataclasses.dataclass(frozen=True)
class AskOptions:
    """Ask the model of a run about an image.

    Attributes:
        folder: Folder of the run.
        image: File of the image.
        question: The question, in quotes.
        top: How many answers to show.
    """

    folder: Annotated[Path, tyro.conf.Positional]
    image: Annotated[Path, tyro.conf.Positional]
    question: Annotated[str, tyro.conf.Positional]
    top: int = 3


def run(arguments: list[str], console: Console) -> int:
    """Train, or do what the first argument names."""
    if arguments[:1] == ["eval"]:
        return _eval(arguments[1:], console)
    if arguments[:1] == ["ask"]:
        return _ask(arguments[1:], console)
    return _train(arguments, console)


def _train(arguments: list[str], console: Console) -> int:
    options = parse_run(arguments, "vqa", Options, PRESETS)
    config = options.run
    prepared = prepare_run(prepare, options, console)
    with Bar(console) as bar:
        metrics = train(prepared, bar)
    console.print(rich_table(metrics["results"], f"{config.student}, {config.mode}, on {config.data}"))
    console.print(f"Report and pictures: {config.folder}/report.md", highlight=False, soft_wrap=True)
    console.print(f'transmamba vqa ask {config.folder} IMAGE "QUESTION"', highlight=False, soft_wrap=True)
    return 0


def _eval(arguments: list[str], console: Console) -> int:
    options = parse(EvalOptions, arguments, "vqa eval")
    use_threads(options.threads)
    with refusing():
        loaded = Answerer.load(options.folder)
        config = loaded.config
        data = load_vqa(config.data, options.data_dir or config.data_dir, config.images, config.image_size, config.seed)
        loaded.model.to(usable_device(options.device))
    results = evaluate(loaded.model, data, loaded.tokenizer)
    console.print(rich_table(results, f"{options.folder} on {config.data}"))
    return 0


def _ask(arguments: list[str], console: Console) -> int:
    options = parse(AskOptions, arguments, "vqa ask")
    with refusing():
        if options.top < 1:
            raise BadInputError(f"top must be at least 1, got {options.top}")
        loaded = Answerer.load(options.folder)
        answers = loaded.ask(options.image, options.question)
    if unknown := loaded.unknown_words(options.question):
        console.print(f"words that no training question has: {', '.join(unknown)}", highlight=False, markup=False)
    for answer, probability in answers[: options.top]:
        console.print(f"{probability:6.1%}  {answer}", highlight=False, markup=False)
    return 0
