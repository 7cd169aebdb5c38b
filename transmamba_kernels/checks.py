"""Checks of arguments: each message names the argument, what was given and what is allowed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

FLOATS = frozenset((torch.float32, torch.bfloat16, torch.float16, torch.float64))


def is_float_tensor(name: str, value: Any, optional: bool = False, allow_complex: bool = False) -> None:
    """Raise unless ``value`` is a floating-point tensor, or None where ``optional``."""
    if isinstance(value, Tensor):
        if value.dtype in FLOATS or (allow_complex and value.is_complex()):
            return
        allowed = "float32, bfloat16, float16 or float64" + (" (or complex)" if allow_complex else "")
        raise TypeError(f"{name} must be {allowed}, got {str(value.dtype).removeprefix('torch.')}")
    if not (optional and value is None):
        raise TypeError(f"{name} must be a tensor{' or None' if optional else ''}, got {type(value).__name__}")


def has_shape(name: str, tensor: Tensor, expected: tuple[int, ...], meaning: str) -> None:
    """Raise unless ``tensor`` has the ``expected`` shape, which ``meaning`` spells out."""
    if tensor.shape != expected:
        raise ValueError(f"{name} must have shape {meaning} = {tuple(expected)}, got {tuple(tensor.shape)}")


def is_bool(name: str, value: Any) -> None:
    """Raise unless ``value`` is True or False."""
    if value is not True and value is not False:
        raise TypeError(f"{name} must be True or False, got {value!r}")


def on_one_device(first: tuple[str, Tensor], others: tuple[tuple[str, Tensor | None], ...]) -> None:
    """Raise unless all tensors lie on the device of the first."""
    device = first[1].device
    for name, tensor in others:
        if tensor is not None and tensor.device != device:
            raise ValueError(f"{name} must be on the device of {first[0]}, {device}, got {tensor.device}")
