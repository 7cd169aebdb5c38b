"""Image data sets as arrays: what is embedded, what is read from files, and the list of all."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from transmamba.tasks.colour_images import cifar10, image_folder

FASHION_MNIST_FOLDER = Path("/usr/share/datasets/fashion-mnist")


def _digits(folder: Path | None, size: int | None) -> tuple[np.ndarray, ...]:
    """Handwritten digits, 1433 + 364 images of 8 x 8: ``load_digits`` of scikit-learn (BSD-3).

    They are the test part of "Optical Recognition of Handwritten Digits" of the UCI repository (CC BY 4.0). Every
    fifth image of each class is a test image.
    """
    if folder is not None:
        raise ValueError("digits come with scikit-learn and need no data_dir")
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError('the digits come with scikit-learn: pip install "transmamba[adapt]"') from error
    images, labels = load_digits().images.astype(np.float32) / 16, load_digits().target
    test = np.zeros(len(labels), dtype=bool)
    for c in np.unique(labels):
        test[np.flatnonzero(labels == c)[::5]] = True
    return images[~test], labels[~test], images[test], labels[test]


def _fashion_mnist(folder: Path | None, size: int | None) -> tuple[np.ndarray, ...]:
    """Fashion-MNIST (Xiao et al., https://arxiv.org/abs/1708.07747; MIT), 60,000 + 10,000 images of 28 x 28."""
    folder = FASHION_MNIST_FOLDER if folder is None else folder
    arrays: list[np.ndarray] = []
    for part in ("train", "t10k"):
        images, labels = (
            read_idx(_find(folder, f"{part}-{kind}")) for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")
        )
        if images.ndim != 3 or images.shape[1] != images.shape[2] or labels.shape != images.shape[:1]:
            raise ValueError(f"{folder}: {part} images {images.shape} and labels {labels.shape} do not belong together")
        arrays += [images.astype(np.float32) / 255, labels]
    return tuple(arrays)


def _find(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise FileNotFoundError(
        f"{folder / name}[.gz] is missing: install Fashion-MNIST with `apt install dataset-fashion-mnist`, "
        "or give the folder of its four idx files with --data-dir"
    )


def read_idx(path: str | Path) -> np.ndarray:
    """Read a file of unsigned bytes in the idx format, as it is or compressed by gzip.

    Raises:
        ValueError: The file is truncated, damaged, or of another format; the message names it.
    """
    path = Path(path)
    content = path.read_bytes()
    if content[:2] == b"\x1f\x8b":
        try:
            content = gzip.decompress(content)
        except (EOFError, OSError, zlib.error) as error:
            raise ValueError(f"{path} is damaged: {error}") from error
    # Two zero bytes, 8 for unsigned bytes, the number of dimensions, and then each of them as a big-endian int.
    if len(content) < 4 or content[:3] != b"\0\0\x08" or len(content) < 4 + 4 * content[3]:
        raise ValueError(f"{path} is not an idx file of unsigned bytes")
    shape = struct.unpack_from(f">{content[3]}I", content, 4)
    values = np.frombuffer(content, np.uint8, offset=4 + 4 * len(shape))
    if values.size != math.prod(shape):
        raise ValueError(f"{path} is damaged: its header promises {math.prod(shape)} values, it holds {values.size}")
    return values.reshape(shape).copy()


# From the folder of the files and the wanted size to training and test images ``(n, H, W)`` or ``(n, H, W, 3)``, uint8
# or float32 from 0 to 1, each with its labels. Only a loader whose images differ in size heeds the size.
DATASETS: dict[str, Callable[[Path | None, int | None], tuple[np.ndarray, ...]]] = {
    "digits": _digits,
    "fashion-mnist": _fashion_mnist,
    "cifar10": cifar10,
    "imagefolder": image_folder,
}
