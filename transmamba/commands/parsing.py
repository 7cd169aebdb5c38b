"""From the command line, a config file and a preset to options, and from what is wrong with them to one line."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import torch
import tyro
from rich.console import Console

from transmamba.config import PRESETS, RunConfig, preset
from transmamba.config_file import read_config

Parsed = TypeVar("Parsed")
BAD_INPUT = (ValueError, TypeError, NotImplementedError, FileNotFoundError, FileExistsError, NotADirectoryError)


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of a run. Those of a preset count first, then those of a config file, then those given here.

    Attributes:
        preset: Options to begin with: "digits", "fashion-mnist", "cifar10", "smollm2-enwik8" or "minilm-enwik8".
        config: YAML or JSON file with options, named as here; nested ones as mappings.
        overwrite: Replace the run that the folder holds.
        run: Options of the run.
    """

    preset: str = "digits"
    config: Path | None = None
    overwrite: bool = False
    run: Annotated[RunConfig, tyro.conf.arg(name="")] = dataclasses.field(default_factory=RunConfig)


class BadInputError(ValueError):
    """The user asked for something that cannot be."""


@contextlib.contextmanager
def refusing():
    """Turn what is raised over wrong options, before any work, into :class:`BadInputError`."""
    try:
        yield
    except BAD_INPUT as error:
        raise BadInputError(reason(error)) from error


def reason(error: Exception) -> str:
    """What went wrong, as one text."""
    if not isinstance(error, OSError) or error.strerror is None:
        return str(error)
    return f"{error.filename}: {error.strerror}" if error.filename else error.strerror


def use_threads(threads: int | None) -> None:
    """Let torch compute on so many threads; None leaves it its choice."""
    if threads is not None:
        if threads < 1:
            raise BadInputError(f"threads must be at least 1, got {threads}")
        torch.set_num_threads(threads)


def parse_run(arguments: list[str], command: str, kind: Any, presets: Mapping[str, Any] = PRESETS) -> Any:
    """Read preset, config file and flags, the later ones counting more.

    Args:
        kind: :class:`Options`, or another dataclass with ``preset``, ``config`` and ``run``; returned filled in.
        presets: What ``run`` may begin with, by name; the first is the default.

    Raises:
        BadInputError: One of them is wrong.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    first.add_argument("--preset")
    first.add_argument("--config")
    with refusing():
        try:
            chosen, _ = first.parse_known_args(arguments)
        except argparse.ArgumentError as error:
            raise BadInputError(str(error)) from error
        first_preset = next(iter(presets))
        content = {} if chosen.config is None else read_config(chosen.config, presets[first_preset])
        name = chosen.preset or content.pop("preset", first_preset)
        options = preset(name, presets)
        launched = _launched() if hasattr(options, "precision") else {}
        default = kind(preset=name, run=dataclasses.replace(options, **launched))
        content.pop("preset", None)
    return parse(kind, [*_flags(content), *arguments], command, default)


def prepare_run(prepare: Callable[[Any, bool], Any], options: Any, console: Console) -> Any:
    """Check the run of :func:`parse_run`'s options by ``prepare``, and say so if nothing is left to do.

    Raises:
        BadInputError: An option is wrong, or the folder holds something else.
    """
    config = options.run
    use_threads(config.threads)
    with refusing():
        prepared = prepare(config, options.overwrite)
    if prepared.finished is not None:
        console.print(f"{config.folder} is finished already; --overwrite does it again", highlight=False)
    return prepared


def _launched() -> dict[str, Any]:
    """What ``accelerate launch`` was told about the precision."""
    asked = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if asked not in ("no", "bf16"):
        raise BadInputError(f"--mixed_precision must be no or bf16, got {asked}")
    return {"precision": "bfloat16"} if asked == "bf16" else {}


def parse(kind: type[Parsed], arguments: list[str], command: str, default: Any = tyro.MISSING_NONPROP) -> Parsed:
    """Read ``arguments`` into the dataclass ``kind``; ``--help`` prints and exits.

    Raises:
        BadInputError: They are wrong; the message is one line.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), refusing():
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
        if isinstance(value, dict) and not key.endswith("_options"):
            flags += _flags(value, f"{prefix}{name}.")
        elif isinstance(value, bool):
            flags.append(f"--{prefix}{name}" if value else f"--{prefix}no-{name}")
        else:
            pairs = value.items() if isinstance(value, dict) else ()
            values = [x for pair in pairs for x in pair] or (value if isinstance(value, (list, tuple)) else [value])
            flags += [f"--{prefix}{name}", *map(str, [] if value == {} else values)]
    return flags
