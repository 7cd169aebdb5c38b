"""``transmamba eval``: what a saved student or teacher reaches."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from torch import nn

from transmamba.adapt import usable_device
from transmamba.commands.parsing import BadInputError, parse, refusing, use_threads
from transmamba.config import RunConfig, TeacherConfig
from transmamba.models import Student, load_pretrained
from transmamba.report import samples_per_second
from transmamba.run_folder import student_folder
from transmamba.tasks import ImageData, load_task
from transmamba.tasks.text import TextConfig
from transmamba.teachers import create_teacher


@dataclasses.dataclass(frozen=True)
class EvalOptions:
    """What a saved student or teacher reaches, and its inference speed.

    Attributes:
        folder: Folder of a student (save_pretrained), of a run, or of a ViT or DeiT classifier of transformers.
        data: Data set, "digits", "fashion-mnist", "cifar10" or "imagefolder", "text" or "sentences"; its test part is
            used.
        data_dir: Folder of its files, where they are not in their usual place; for the last two a text file.
        image_size: Resize the images to so many pixels.
        channels: Repeat the grey channel so many times.
        teacher: Folder of the Transformer that reads a text.
        text: How a text is read.
        threads: CPU threads; torch's choice if not given.
        device: Where to compute, such as "cpu" or "cuda".
    """

    folder: Annotated[Path, tyro.conf.Positional]
    data: str = "digits"
    data_dir: str | None = None
    image_size: int | None = None
    channels: int | None = None
    teacher: str | None = None
    text: TextConfig = dataclasses.field(default_factory=TextConfig)
    threads: int | None = None
    device: str = "cpu"


def run(arguments: list[str], console: Console) -> int:
    """Measure what a folder holds, and how fast it is."""
    options = parse(EvalOptions, arguments, "eval")
    use_threads(options.threads)
    with refusing():
        model = _load(options.folder)
        chosen = {name: getattr(options, name) for name in ("data", "data_dir", "image_size", "channels", "text")}
        task = load_task(RunConfig(**chosen, teacher=TeacherConfig(path=options.teacher)))
        if isinstance(task, ImageData):
            _check_images(model, task, options.folder)
        elif isinstance(model, Student):
            task.check_student(model)
        device = usable_device(options.device)
    model.to(device)
    reached, speed = task.measure(model), samples_per_second(model, task.inputs(task.test, 256)[0])
    main = task.metric.text(reached.pop(task.metric.name))
    others = "".join(f", {name} {value:.4f}" for name, value in reached.items())
    console.print(
        f"{task.metric.name} {main}{others} on {len(task.test)} test {task.unit} of {task.name}, "
        f"{speed:,.0f} {task.unit}/s",
        highlight=False,
    )
    return 0


def _check_images(model: nn.Module, data: ImageData, folder: Path) -> None:
    config: Any = model.config
    takes = (config.image_size, getattr(config, "num_channels", None) or config.in_channels)
    if takes != (data.size, data.channels):
        raise BadInputError(
            f"{folder} takes {takes[1]} channels of {takes[0]} pixels, the data has {data.channels} of "
            f"{data.size}: give --image-size and --channels"
        )


def _load(folder: Path) -> nn.Module:
    folder = student_folder(folder)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} holds no saved student or teacher: there is no config.json")
    if '"model_type"' in (folder / "config.json").read_text(encoding="utf-8", errors="replace"):
        return create_teacher(folder).model
    return load_pretrained(folder)
