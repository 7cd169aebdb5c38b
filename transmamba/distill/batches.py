"""Batches of input that subcloning looks at."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from torch import Tensor


def first_and_all(images: Iterable[Tensor] | None) -> tuple[Tensor | None, Iterable[Tensor] | None]:
    """Return the first batch, and all of them: an iterator can be read only once. None stays None.

    Raises:
        ValueError: There is no batch.
        TypeError: The first is no tensor ``(batch, channels, H, W)``.
    """
    if images is None:
        return None, None
    rest = iter(images)
    first = next(rest, None)
    if first is None:
        raise ValueError("images must hold at least one image")
    if not isinstance(first, Tensor) or first.dim() != 4:
        raise TypeError(f"images must yield tensors (batch, channels, H, W), got {type(first).__name__}")
    return first, itertools.chain([first], rest)
