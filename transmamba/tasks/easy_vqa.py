"""easy-VQA: images of one coloured shape and simple questions about them, from its package on PyPI."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import torch

from transmamba.tasks.questions import Questions, read_image

_HINT = "install easy-VQA with `pip install --no-deps easy-vqa==1.0`, or give the folder of its data with --data-dir"
_SHAPES = ("circle", "rectangle", "triangle")


def easy_vqa(folder: Path | None) -> tuple[Questions, Questions, list[str]]:
    """Training part, test part and answers of easy-VQA (V. Zhou, MIT).

    4,000 + 1,000 images of 64 x 64, 38,575 + 9,673 questions, 13 answers.

    Args:
        folder: Its data; None for that of the installed package.

    Raises:
        FileNotFoundError: A file is missing; the message says how to get it.
        ValueError: A file is damaged.
    """
    if folder is None:
        # The package is found, not imported: it would import a deep learning library.
        found = importlib.util.find_spec("easy_vqa")
        if found is None or found.origin is None:
            raise FileNotFoundError(f"easy-VQA is not installed: {_HINT}")
        folder = Path(found.origin).parent / "data"
    answers = _read(folder / "answers.txt").split()
    train, test = (_part(folder / part, answers) for part in ("train", "test"))
    return train, test, answers


def _part(folder: Path, answers: list[str]) -> Questions:
    path = folder / "questions.json"
    try:
        texts, given, image = zip(*json.loads(_read(path)), strict=True)
        indices = torch.tensor([answers.index(answer) for answer in given])
        images = torch.stack([read_image(folder / "images" / f"{i}.png") for i in range(max(image) + 1)])
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path} and the images beside it are not those of easy-VQA: {error}") from error
    kinds = [_kind(answer) for answer in given]
    return Questions(images, torch.tensor(image), list(texts), indices, kinds)


def _kind(answer: str) -> str:
    if answer in ("yes", "no"):
        return "yes or no"
    return "shape" if answer in _SHAPES else "color"


def _read(path: Path) -> str:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: {_HINT}")
    return path.read_text(encoding="utf-8")
