"""What the ops of decoding have in common: no gradients, a state updated in place, rows of it picked by an index."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_INTEGERS = (torch.int32, torch.int64)


def refuse_gradients(op: str, differentiable: str, tensors: Sequence[Tensor | None]) -> None:
    """Raise where autograd would expect a gradient of ``op``; ``differentiable`` names the op that has one."""
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
        raise RuntimeError(
            f"{op} is for decoding: it updates its state in place and has no gradient. Call it under "
            f"torch.no_grad(), or use {differentiable}, which is differentiable"
        )


def check_state_memory(name: str, state: Tensor) -> None:
    """Raise if elements of ``state`` share memory, as those of an expanded tensor do: each is written."""
    strides = state.stride()
    if 0 in strides and any(n > 1 and stride == 0 for n, stride in zip(state.shape, strides, strict=True)):
        raise ValueError(f"{name} is updated in place and must not be expanded, got strides {tuple(strides)}")


def check_integers(name: str, values: Tensor | None, batch: int, device: torch.device) -> None:
    """Raise unless ``values`` is None or holds one int32 or int64 per batch entry."""
    if values is None:
        return
    if not isinstance(values, Tensor) or values.dtype not in _INTEGERS:
        got = str(values.dtype).removeprefix("torch.") if isinstance(values, Tensor) else type(values).__name__
        raise TypeError(f"{name} must be an int32 or int64 tensor or None, got {got}")
    if values.shape != (batch,):
        raise ValueError(f"{name} must have shape (batch,) = ({batch},), got {tuple(values.shape)}")
    if values.device != device:
        raise ValueError(f"{name} must be on the device of the state, {device}, got {values.device}")


def state_rows(name: str, indices: Tensor | None, rows: int) -> list[int]:
    """The rows that ``indices`` pick out of ``rows``; an empty list for all of them, one per batch entry.

    Raises:
        ValueError: A row does not exist, or is picked twice: both of its batch entries would write it.
    """
    if indices is None:
        return []
    picked = indices.tolist()
    if picked and not 0 <= min(picked) <= max(picked) < rows:
        wrong = next(row for row in picked if not 0 <= row < rows)
        raise ValueError(f"{name} must hold rows of the state, from 0 to {rows - 1}, got {wrong}")
    if len(set(picked)) < len(picked):
        twice = next(row for row in picked if picked.count(row) > 1)
        raise ValueError(f"{name} must hold every row at most once, got {twice} {picked.count(twice)} times")
    return picked


def positions(name: str, seen: Tensor | None) -> list[int]:
    """How many tokens each batch entry has seen; an empty list without ``seen``.

    Raises:
        ValueError: One is negative.
    """
    if seen is None:
        return []
    counts = seen.tolist()
    if counts and min(counts) < 0:
        raise ValueError(f"{name} must not be negative, got {min(counts)}")
    return counts
