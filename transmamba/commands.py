"""What the commands that need torch do; :mod:`transmamba.cli` picks one."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import torch
import tyro
from rich.console import Console
from torch import nn

from transmamba.adapt import adapt, prepare, usable_device
from transmamba.checkpoint import CheckpointError
from transmamba.cli import fail
from transmamba.config import PRESETS, RunConfig, preset, read_config
from transmamba.models import load_pretrained
from transmamba.progress import Bar
from transmamba.report import images_per_second, load_line, rich_table
from transmamba.tasks import accuracy, load_images
from transmamba.teach import build_teacher, teach
from transmamba.teachers import create_teacher
from transmamba.train import Interrupted, TrainingError

Parsed = TypeVar("Parsed")
_BAD_INPUT = (ValueError, TypeError, NotImplementedError, FileNotFoundError, FileExistsError, NotADirectoryError)


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of a run. Those of a preset count first, then those of a config file, then those given here.

    Attributes:
        preset: Options to begin with: "digits" or "fashion-mnist".
        config: YAML or JSON file with options, named as here; nested ones as mappings.
        overwrite: Replace the run that the folder holds.
        run: Options of the run.
    """

    preset: str = "digits"
    config: Path | None = None
    overwrite: bool = False
    run: Annotated[RunConfig, tyro.conf.arg(name="")] = dataclasses.field(default_factory=RunConfig)


@dataclasses.dataclass(frozen=True)
class EvalOptions:
    """Accuracy and inference speed of a saved student or teacher.

    Attributes:
        folder: Folder of a student (save_pretrained), of a run, or of a ViT or DeiT classifier of transformers.
        data: Data set, "digits" or "fashion-mnist"; its test part is used.
        data_dir: Folder of its files, where they are not in their usual place.
        image_size: Resize the images to so many pixels.
        channels: Repeat the grey channel so many times.
        threads: CPU threads; torch's choice if not given.
        device: Where to compute, such as "cpu" or "cuda".
    """

    folder: Annotated[Path, tyro.conf.Positional]
    data: str = "digits"
    data_dir: str | None = None
    image_size: int | None = None
    channels: int | None = None
    threads: int | None = None
    device: str = "cpu"


def run(command: str, arguments: Sequence[str]) -> int:
    """Run ``adapt``, ``teach`` or ``eval`` and return the exit code."""
    console = Console()
    try:
        return {"adapt": _adapt, "teach": _teach, "eval": _eval}[command](list(arguments), console)
    except (BadInputError, CheckpointError) as error:
        return fail(str(error), 2)
    except TrainingError as error:
        return fail(str(error), 1)
    except BrokenPipeError:  # whoever read our output, such as `head`, has seen enough
        raise
    except OSError as error:
        return fail(_reason(error), 1)
    except KeyboardInterrupt as stopped:
        again = shlex.join(["transmamba", command, *(a for a in arguments if a != "--overwrite")])
        what = str(stopped) if isinstance(stopped, Interrupted) else "stopped"
        console.print(f"\n{what}; go on with:\n  {again}", highlight=False, soft_wrap=True)
        return 130


class BadInputError(ValueError):
    """The user asked for something that cannot be."""


@contextlib.contextmanager
def _refusing():
    """Turn what is raised over wrong options, before any work, into :class:`BadInputError`."""
    try:
        yield
    except _BAD_INPUT as error:
        raise BadInputError(_reason(error)) from error


def _reason(error: Exception) -> str:
    if not isinstance(error, OSError) or error.strerror is None:
        return str(error)
    return f"{error.filename}: {error.strerror}" if error.filename else error.strerror


def _adapt(arguments: list[str], console: Console) -> int:
    options = parse_run(arguments, "adapt")
    config = options.run
    _use_threads(config.threads)
    with _refusing():
        prepared = prepare(config, options.overwrite)
    if prepared.finished is not None:
        console.print(f"{config.folder} is finished already; --overwrite does it again", highlight=False)
    with Bar(console) as bar:
        metrics = adapt(prepared, bar, lambda line: console.print(line, highlight=False, soft_wrap=True))
    console.print(rich_table(metrics))
    console.print(f"Report and curves: {config.folder}/report.md", highlight=False, soft_wrap=True)
    console.print(load_line(config.folder), highlight=False, soft_wrap=True, markup=False)
    return 0


def _teach(arguments: list[str], console: Console) -> int:
    config = parse_run(arguments, "teach").run
    _use_threads(config.threads)
    with _refusing():
        if config.teacher.path is not None:
            config = dataclasses.replace(config, teacher=dataclasses.replace(config.teacher, fine_tune=True))
        data = load_images(config.data, config.data_dir, config.image_size, config.channels)
        build_teacher(config, data)
    with Bar(console) as bar:
        taught = teach(config, data, Path(config.out_dir) if config.out_dir else None, bar)
    for line in (
        f"teacher {taught.accuracy:.2%}, {taught.origin}, in {taught.folder}",
        f"Use it: transmamba adapt --data {config.data} --teacher.path {shlex.quote(taught.folder)}",
    ):
        console.print(line, highlight=False, soft_wrap=True)
    return 0


def _eval(arguments: list[str], console: Console) -> int:
    options = parse(EvalOptions, arguments, "eval")
    _use_threads(options.threads)
    with _refusing():
        model = _load(options.folder)
        config: Any = model.config
        data = load_images(options.data, options.data_dir, options.image_size, options.channels)
        takes = (config.image_size, getattr(config, "num_channels", None) or config.in_channels)
        if takes != (data.size, data.channels):
            raise BadInputError(
                f"{options.folder} takes {takes[1]} channels of {takes[0]} pixels, the data has {data.channels} of "
                f"{data.size}: give --image-size and --channels"
            )
        device = usable_device(options.device)
    model.to(device)
    reached, speed = accuracy(model, data.test), images_per_second(model, data.test.tensors[0])
    correct = round(reached * len(data.test))
    console.print(
        f"accuracy {reached:.2%} ({correct} of {len(data.test)} test images of {data.name}), {speed:,.0f} images/s",
        highlight=False,
    )
    return 0


def _load(folder: Path) -> nn.Module:
    if (folder / "student" / "config.json").is_file():
        folder = folder / "student"
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} holds no saved student or teacher: there is no config.json")
    if '"model_type"' in (folder / "config.json").read_text(encoding="utf-8", errors="replace"):
        return create_teacher(folder).model
    return load_pretrained(folder)


def parse_run(arguments: list[str], command: str) -> Options:
    """Read preset, config file and flags, the later ones counting more.

    Raises:
        BadInputError: One of them is wrong.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    first.add_argument("--preset")
    first.add_argument("--config")
    with _refusing():
        try:
            chosen, _ = first.parse_known_args(arguments)
        except argparse.ArgumentError as error:
            raise BadInputError(str(error)) from error
        content = {} if chosen.config is None else read_config(chosen.config)
        name = chosen.preset or content.pop("preset", next(iter(PRESETS)))
        default = Options(preset=name, run=preset(name))
        content.pop("preset", None)
    return parse(Options, [*_flags(content), *arguments], command, default)


def parse(kind: type[Parsed], arguments: list[str], command: str, default: Any = tyro.MISSING_NONPROP) -> Parsed:
    """Read ``arguments`` into the dataclass ``kind``; ``--help`` prints and exits.

    Raises:
        BadInputError: They are wrong; the message is one line.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), _refusing():
            return tyro.cli(kind, prog=f"transmamba {command}", args=arguments, default=default)
    except SystemExit as stopped:
        if not stopped.code:
            raise
        raise BadInputError(_one_line(said.getvalue())) from stopped


def _one_line(box: str) -> str:
    """What tyro says in a box of title, message and hints: the message, and the option that it thinks was meant."""
    text = " ".join(re.sub(r"[╭╰]─|[╮╯│]", "", box).split())
    sections = [section.strip() for section in re.split(r"[─-]{3,}", text) if section.strip()]
    message = sections[1] if len(sections) > 1 else text
    for prefix in ("Error parsing ", "run: ", "run."):
        message = message.removeprefix(prefix)
    meant = re.search(r"Perhaps you meant: *(--[\w.-]+)", text)
    return f"{message} (did you mean {meant[1]}?)" if meant else message


def _flags(content: dict[str, Any], prefix: str = "") -> list[str]:
    """A config file's content as command line flags, so that both are read by the same rules."""
    flags: list[str] = []
    for key, value in content.items():
        name = key.replace("_", "-")
        if isinstance(value, dict) and key != "student_options":
            flags += _flags(value, f"{prefix}{name}.")
        elif isinstance(value, bool):
            flags.append(f"--{prefix}{name}" if value else f"--{prefix}no-{name}")
        else:
            pairs = value.items() if isinstance(value, dict) else ()
            values = [x for pair in pairs for x in pair] or (value if isinstance(value, (list, tuple)) else [value])
            flags += [f"--{prefix}{name}", *map(str, [] if value == {} else values)]
    return flags


def _use_threads(threads: int | None) -> None:
    if threads is not None:
        if threads < 1:
            raise BadInputError(f"threads must be at least 1, got {threads}")
        torch.set_num_threads(threads)
