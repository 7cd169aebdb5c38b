"""Image classification: two data sets as tensors, subsets of them, a light augmentation, accuracy."""

from __future__ import annotations

import dataclasses
import gzip
import math
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import TensorDataset

BACKGROUND = -1.0  # of both data sets: black
FASHION_MNIST_FOLDER = Path("/usr/share/datasets/fashion-mnist")


@dataclasses.dataclass(frozen=True)
class ImageData:
    """A data set, split for good.

    Attributes:
        name: As in :data:`DATASETS`.
        train, test: Pairs of images ``(channels, size, size)``, float32 in [-1, 1], and labels, int64.
        num_classes: Labels are from 0 to below it.
    """

    name: str
    train: TensorDataset
    test: TensorDataset
    num_classes: int

    @property
    def channels(self) -> int:
        """Channels of each image."""
        return self.train.tensors[0].shape[1]

    @property
    def size(self) -> int:
        """Height and width of each image."""
        return self.train.tensors[0].shape[2]


def load_images(
    name: str,
    folder: str | Path | None = None,
    image_size: int | None = None,
    channels: int | None = None,
) -> ImageData:
    """Load ``"digits"`` or ``"fashion-mnist"``.

    Args:
        name: One of :data:`DATASETS`.
        folder: Where the files of a data set lie that is not embedded.
        image_size: Resize to so many pixels; None keeps the images as they are.
        channels: Repeat the grey channel so many times, for teachers that expect colours.

    Raises:
        ValueError: Unknown name, a damaged file, or a folder given for an embedded data set.
        FileNotFoundError: A file is missing; the message says how to get it.
        ImportError: scikit-learn, which holds the digits, is not installed.
    """
    if name not in DATASETS:
        raise ValueError(f"unknown data set {name!r}; known: {', '.join(DATASETS)}")
    arrays = DATASETS[name](None if folder is None else Path(folder))
    train_images, train_labels, test_images, test_labels = (torch.from_numpy(a) for a in arrays)
    train, test = (
        TensorDataset(_prepare(images, image_size, channels), labels.long())
        for images, labels in ((train_images, train_labels), (test_images, test_labels))
    )
    return ImageData(name, train, test, int(train_labels.max()) + 1)


def _prepare(images: Tensor, size: int | None, channels: int | None) -> Tensor:
    """``(n, size, size)`` from 0 to 1 into ``(n, channels, size, size)`` from -1 to 1."""
    images = images.float().unsqueeze(1) * 2 - 1
    if size is not None and size != images.shape[-1]:
        images = F.interpolate(images, size=(size, size), mode="bilinear", antialias=True)
    return images.repeat(1, channels or 1, 1, 1)


def _digits(folder: Path | None) -> tuple[np.ndarray, ...]:
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


def _fashion_mnist(folder: Path | None) -> tuple[np.ndarray, ...]:
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


DATASETS: dict[str, Callable[[Path | None], tuple[np.ndarray, ...]]] = {
    "digits": _digits,
    "fashion-mnist": _fashion_mnist,
}


def subset(dataset: TensorDataset, fraction: float, seed: int) -> TensorDataset:
    """Keep ``fraction`` of every class, at least one image each; a smaller fraction is part of a larger one."""
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must be above 0 and at most 1, got {fraction}")
    if fraction == 1:
        return dataset
    labels, generator = dataset.tensors[1], torch.Generator().manual_seed(seed)
    kept = []
    for c in labels.unique():
        of_class = (labels == c).nonzero().flatten()
        shuffled = of_class[torch.randperm(len(of_class), generator=generator)]
        kept.append(shuffled[: max(1, round(fraction * len(of_class)))])
    chosen = torch.cat(kept).sort().values
    return TensorDataset(*(tensor[chosen] for tensor in dataset.tensors))


def random_shift(images: Tensor, pixels: int) -> Tensor:
    """Move each of ``images`` ``(batch, channels, H, W)`` by up to ``pixels`` along each axis, by torch's RNG."""
    if pixels == 0:
        return images
    height, width = images.shape[2:]
    padded = F.pad(images, (pixels,) * 4, value=BACKGROUND)
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)
    dy, dx = torch.randint(0, 2 * pixels + 1, (2, len(images)), device="cpu").to(images.device)
    return windows[torch.arange(len(images), device=images.device), :, dy, dx]


@torch.no_grad()
def accuracy(model: nn.Module | Callable[[Tensor], Tensor], dataset: TensorDataset, batch_size: int = 512) -> float:
    """Part of ``dataset`` whose largest logit is the label's; a module is asked in eval mode and put back."""
    training = isinstance(model, nn.Module) and model.training
    device = torch.device("cpu")
    if isinstance(model, nn.Module):
        model.eval()
        device = next(model.parameters()).device
    correct = 0
    for images, labels in zip(*(tensor.split(batch_size) for tensor in dataset.tensors), strict=True):
        output = model(images.to(device))
        correct += int((getattr(output, "logits", output).argmax(-1).cpu() == labels).sum())
    if isinstance(model, nn.Module):
        model.train(training)
    return correct / len(dataset)
