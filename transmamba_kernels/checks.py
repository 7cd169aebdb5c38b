"""Checks of arguments: each message names the argument, what was given and what is allowed."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any

import torch
from torch import Tensor

FLOATS = frozenset((torch.float32, torch.bfloat16, torch.float16, torch.float64))


def are_float_tensors(
    names: Sequence[str], values: Sequence[Any], required: int, may_be_complex: Container[str] = ()
) -> None:
    """Raise unless every value is a floating-point tensor on one device; those after ``required`` may be None."""
    on_cpu = True
    for i, value in enumerate(values):
        if isinstance(value, Tensor):
            on_cpu = on_cpu and value.is_cpu
            if value.dtype in FLOATS or (names[i] in may_be_complex and value.is_complex()):
                continue
            allowed = "float32, bfloat16, float16 or float64" + (" (or complex)" if names[i] in may_be_complex else "")
            raise TypeError(f"{names[i]} must be {allowed}, got {str(value.dtype).removeprefix('torch.')}")
        if value is not None or i < required:
            optional = "" if i < required else " or None"
            raise TypeError(f"{names[i]} must be a tensor{optional}, got {type(value).__name__}")
    if not on_cpu:
        for name, value in zip(names, values, strict=True):
            if value is not None and value.device != values[0].device:
                raise ValueError(f"{name} must be on the device of {names[0]}, {values[0].device}, got {value.device}")


def has_shape(name: str, tensor: Tensor, expected: tuple[int, ...], meaning: str) -> None:
    """Raise unless ``tensor`` has the ``expected`` shape, which ``meaning`` spells out."""
    if tensor.shape != expected:
        raise ValueError(f"{name} must have shape {meaning} = {tuple(expected)}, got {tuple(tensor.shape)}")


def are_bools(**values: Any) -> None:
    """Raise unless every value is True or False."""
    for name, value in values.items():
        if value is not True and value is not False:
            raise TypeError(f"{name} must be True or False, got {value!r}")
