"""Batches of input that subcloning looks at."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor


def first_and_all(images: Iterable[Tensor] | None) -> tuple[Tensor | None, Iterable[Tensor] | None]:
    """Return the first batch, and all of them: an iterator can be read only once. None stays None.

    Raises:
        ValueError: There is no batch.
        TypeError: The first is no tensor; see :func:`check_batch`.
    """
    if images is None:
        return None, None
    rest = iter(images)
    first = next(rest, None)
    if first is None:
        raise ValueError("images must hold at least one image")
    check_batch(first)
    return first, itertools.chain([first], rest)


def check_batch(images: object) -> None:
    """Raise unless ``images`` is a tensor ``(batch, channels, H, W)``, with frames before ``H``, or of token ids."""
    if not isinstance(images, Tensor) or images.dim() not in (2, 4, 5):
        raise TypeError(f"images must yield tensors (batch, channels, H, W), got {type(images).__name__}")


def resized(images: Tensor, size: int) -> Tensor:
    """Images or videos with frames of ``size`` x ``size``."""
    if tuple(images.shape[-2:]) == (size, size):
        return images
    if images.dim() == 5:
        return torch.stack([resized(frame, size) for frame in images.unbind(2)], dim=2)
    return F.interpolate(images, size=(size, size), mode="bilinear", antialias=True)
