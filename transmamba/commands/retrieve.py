"""``transmamba retrieve``: train a student of videos and texts, measure it, or search with it."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from transmamba.adapt import usable_device
from transmamba.commands.parsing import BadInputError, parse, parse_run, prepare_run, refusing, use_threads
from transmamba.progress import Bar
from transmamba.retrieve import PRESETS, RetrieveConfig, Retriever, prepare, retrieve
from transmamba.retrieve.data import describe_left_out, load_data, read_captions
from transmamba.retrieve.report import rich_table
from transmamba.retrieve.retriever import measure
from transmamba.retrieve.run import told
from transmamba.run_folder import read_run
from transmamba.tasks.video import VideoError, find_videos


@dataclasses.dataclass(frozen=True)
class Options:
    """Train a student of videos and texts from a CLIP. `transmamba retrieve eval` and `search` use it.

    Options of a preset count first, then those of a config file, then those given here.

    Attributes:
        preset: Options to begin with: "moving-mnist".
        config: YAML or JSON file with options, named as here; nested ones as mappings.
        overwrite: Replace the run that the folder holds.
        run: Options of the run.
    """

    preset: str = "moving-mnist"
    config: Path | None = None
    overwrite: bool = False
    run: Annotated[RetrieveConfig, tyro.conf.arg(name="")] = dataclasses.field(default_factory=RetrieveConfig)


@dataclasses.dataclass(frozen=True)
class EvalOptions:
    """How well the student of a run finds the held-out videos of a data set.

    Attributes:
        folder: Folder of the run.
        data: Data set; that of the run if not given.
        data_dir: Folder of its files; that of the run if not given.
        threads: CPU threads; torch's choice if not given.
        device: Where to compute, such as "cpu" or "cuda".
    """

    folder: Annotated[Path, tyro.conf.Positional]
    data: str | None = None
    data_dir: str | None = None
    threads: int | None = None
    device: str = "cpu"


@dataclasses.dataclass(frozen=True)
class SearchOptions:
    """The videos of a folder that fit a text best.

    Attributes:
        folder: Folder of the run whose student searches.
        videos: Folder with the videos, and folders within it.
        text: What to look for.
        top: How many to show.
        threads: CPU threads; torch's choice if not given.
        device: Where to compute, such as "cpu" or "cuda".
    """

    folder: Annotated[Path, tyro.conf.Positional]
    videos: Annotated[Path, tyro.conf.Positional]
    text: Annotated[str, tyro.conf.Positional]
    top: int = 5
    threads: int | None = None
    device: str = "cpu"


def run(arguments: list[str], console: Console) -> int:
    """Train, or what the first argument names."""
    if arguments[:1] == ["eval"]:
        return _eval(arguments[1:], console)
    if arguments[:1] == ["search"]:
        return _search(arguments[1:], console)
    options = parse_run(arguments, "retrieve", Options, PRESETS)
    config = options.run
    prepared = prepare_run(prepare, options, console)
    with Bar(console) as bar, _usable():
        metrics = retrieve(prepared, bar, lambda line: console.print(line, highlight=False, soft_wrap=True))
    console.print(rich_table(metrics["results"], config.student))
    console.print(f"Report and pictures: {config.folder}/report.md", highlight=False, soft_wrap=True)
    console.print(f'transmamba retrieve search {config.folder} VIDEO_FOLDER "TEXT"', highlight=False, soft_wrap=True)
    return 0


@contextlib.contextmanager
def _usable():
    """Videos that all turn out to be broken are bad input, though it takes some work to find out."""
    try:
        yield
    except VideoError as error:
        raise BadInputError(str(error)) from error


def _eval(arguments: list[str], console: Console) -> int:
    options = parse(EvalOptions, arguments, "retrieve eval")
    use_threads(options.threads)
    with refusing():
        retriever = Retriever.load(options.folder)
        device = usable_device(options.device)
        known = {f.name for f in dataclasses.fields(RetrieveConfig)} - {"teacher", "subclone", "distill", "optim"}
        config = RetrieveConfig(**{name: value for name, value in read_run(options.folder).items() if name in known})
        given = {name: value for name in ("data", "data_dir") if (value := getattr(options, name)) is not None}
        config = dataclasses.replace(config, out_dir=str(options.folder), **given)
        captions = read_captions(config)
    with Bar(console) as bar, _usable():
        data = load_data(
            config, captions, retriever.tokenizer, retriever.max_length, (retriever.mean, retriever.std), told(bar)
        )
    retriever.model.to(device)
    for line in describe_left_out(data.left_out):
        console.print(line, highlight=False, soft_wrap=True)
    console.print(rich_table({"adapted": measure(retriever.model, retriever.model, data.test)}, config.student))
    return 0


def _search(arguments: list[str], console: Console) -> int:
    options = parse(SearchOptions, arguments, "retrieve search")
    use_threads(options.threads)
    with refusing():
        if not options.text.strip():
            raise BadInputError("text must not be empty")
        if options.top < 1:
            raise BadInputError(f"top must be at least 1, got {options.top}")
        retriever, videos = Retriever.load(options.folder), find_videos(options.videos)
        retriever.model.to(usable_device(options.device))
    skipped: dict[str, str] = {}
    with Bar(console) as bar:
        tell = told(bar)
        found = retriever.search(options.text, videos, skipped, lambda done, total: tell("search", done, total))
    if skipped:
        first = next(iter(skipped.values()))
        console.print(
            f"{len(skipped)} of {len(videos)} videos could not be used; the first: {first}",
            highlight=False,
            soft_wrap=True,
        )
    if not found:
        raise BadInputError(f"{options.videos} holds no video that can be used")
    for one in found[: options.top]:
        console.print(f"{one.similarity:6.3f}  {one.path}", highlight=False, soft_wrap=True, markup=False)
    return 0
