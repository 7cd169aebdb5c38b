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
from transmamba.models import load_pretrained
from transmamba.report import samples_per_second
from transmamba.tasks import accuracy, load_images
from transmamba.teachers import create_teacher


@dataclasses.dataclass(frozen=True)
class EvalOptions:
    """Accuracy and inference speed of a saved student or teacher.

    Attributes:
        folder: Folder of a student (save_pretrained), of a run, or of a ViT or DeiT classifier of transformers.
        data: Data set, "digits", "fashion-mnist", "cifar10" or "imagefolder"; its test part is used.
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


def run(arguments: list[str], console: Console) -> int:
    """Measure the accuracy and speed of what a folder holds."""
    options = parse(EvalOptions, arguments, "eval")
    use_threads(options.threads)
    with refusing():
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
    reached, speed = accuracy(model, data.test), samples_per_second(model, data.test.tensors[0])
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
