"""Checks of arguments: each message names the argument, what was given and what is allowed."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any

import torch
from torch import Tensor

from transmamba_kernels.index_copies import IndexCopies

OFFSETS = (torch.int32, torch.int64)
FLOATS = frozenset((torch.float32, torch.bfloat16, torch.float16, torch.float64))


def are_float_tensors(
    names: Sequence[str], values: Sequence[Any], required: int, may_be_complex: Container[str] = ()
) -> None:
    """Raise unless every value is a floating-point tensor on one device; those after ``required`` may be None."""
    for i, value in enumerate(values):
        if value is None:
            if i < required:
                break
        elif not isinstance(value, Tensor) or value.dtype not in FLOATS or not value.is_cpu:
            break
    else:
        return  # the common case, with as little as can be asked of each tensor: it costs more than a short kernel
    for i, (name, value) in enumerate(zip(names, values, strict=True)):
        if isinstance(value, Tensor):
            if value.dtype in FLOATS or (name in may_be_complex and value.is_complex()):
                continue
            allowed = "float32, bfloat16, float16 or float64" + (" (or complex)" if name in may_be_complex else "")
            raise TypeError(f"{name} must be {allowed}, got {str(value.dtype).removeprefix('torch.')}")
        if value is not None or i < required:
            optional = "" if i < required else " or None"
            raise TypeError(f"{name} must be a tensor{optional}, got {type(value).__name__}")
    for name, value in zip(names, values, strict=True):
        if value is not None and value.device != values[0].device:
            raise ValueError(f"{name} must be on the device of {names[0]}, {values[0].device}, got {value.device}")


def has_shape(name: str, tensor: Tensor, expected: tuple[int, ...], meaning: str) -> None:
    """Raise unless ``tensor`` has the ``expected`` shape, which ``meaning`` spells out."""
    if tensor.shape != expected:
        raise ValueError(f"{name} must have shape {meaning} = {tuple(expected)}, got {tuple(tensor.shape)}")


def count_sequences(cu_seqlens: Any, batch: int, device: torch.device) -> int:
    """The number of sequences packed in one row; raise unless ``cu_seqlens`` can hold their offsets.

    The values are not read, so that this traces; :func:`offsets` checks them when a kernel runs.
    """
    if not isinstance(cu_seqlens, Tensor):
        raise TypeError(f"cu_seqlens must be a tensor or None, got {type(cu_seqlens).__name__}")
    if cu_seqlens.dtype not in OFFSETS:
        raise TypeError(f"cu_seqlens must be int32 or int64, got {str(cu_seqlens.dtype).removeprefix('torch.')}")
    if cu_seqlens.dim() != 1 or cu_seqlens.shape[0] < 2:
        raise ValueError(
            f"cu_seqlens must have shape (sequences + 1,), of at least one sequence, got {tuple(cu_seqlens.shape)}"
        )
    if not cu_seqlens.is_cpu and cu_seqlens.device != device:
        raise ValueError(f"cu_seqlens must be on the CPU or the device of the input, {device}, got {cu_seqlens.device}")
    if batch != 1:
        raise ValueError(f"cu_seqlens needs a batch of 1, got {batch}")
    return cu_seqlens.shape[0] - 1


def offsets(cu_seqlens: Tensor, length: int) -> list[int]:
    """The values of ``cu_seqlens``; raise unless they lead from 0 to ``length`` and never decrease."""
    found = cu_seqlens.tolist()
    if found[0] != 0:
        raise ValueError(f"cu_seqlens must start at 0, got {found[0]}")
    if sorted(found) != found:
        at = next(i for i in range(1, len(found)) if found[i] < found[i - 1])
        raise ValueError(f"cu_seqlens must not decrease, got {found[at]} after {found[at - 1]}")
    if found[-1] != length:
        raise ValueError(f"cu_seqlens must end at the length {length}, got {found[-1]}")
    return found


# Called with (cu_seqlens, device, length): what kernels on a device read.
device_offsets = IndexCopies("cu_seqlens", offsets)


def are_bools(**values: Any) -> None:
    """Raise unless every value is True or False."""
    for name, value in values.items():
        if value is not True and value is not False:
            raise TypeError(f"{name} must be True or False, got {value!r}")
