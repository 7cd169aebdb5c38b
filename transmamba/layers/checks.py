"""Checks of arguments shared by the layers: each names the argument, what was given and what is allowed."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def positive_int(**values: object) -> None:
    """Raise unless every value is an integer of at least 1."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name} must be an int, got {value!r} ({type(value).__name__})")
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")


def int_from_zero(**values: object) -> None:
    """Raise unless every value is an integer of at least 0."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise ValueError(f"{name} must be an int of at least 0, got {value!r}")


def ratio_of_mlp(mlp_ratio: float) -> None:
    """Raise unless ``mlp_ratio``, hidden units over width, is 0 or positive."""
    if not 0 <= mlp_ratio < math.inf:
        raise ValueError(f"mlp_ratio must be 0 (no MLP) or positive, got {mlp_ratio}")


def token_ids(input_ids: Tensor, longest: int | None = None) -> None:
    """Raise unless ``input_ids`` is an integer tensor ``(batch, length)``, at most ``longest`` tokens long."""
    is_ids = isinstance(input_ids, Tensor) and input_ids.dtype in (torch.int32, torch.int64)
    if not is_ids or input_ids.dim() != 2:
        raise TypeError("input_ids must be an integer tensor (batch, length)")
    if longest is not None and input_ids.shape[1] > longest:
        raise ValueError(f"input_ids must be at most max_length = {longest} tokens long, got {input_ids.shape[1]}")


def tokens_of_width(hidden_states: Tensor, d_model: int, grid: tuple[int, ...] | None = None) -> None:
    """Raise unless ``hidden_states`` is a tensor ``(batch, length, d_model)``, of the tokens of ``grid`` if given."""
    if not isinstance(hidden_states, Tensor):
        raise TypeError(f"hidden_states must be a tensor, got {type(hidden_states).__name__}")
    length = "length" if grid is None else math.prod(grid)
    shape = hidden_states.shape
    if len(shape) != 3 or shape[-1] != d_model or (grid is not None and shape[1] != length):
        raise ValueError(f"hidden_states must have shape (batch, {length}, {d_model}), got {tuple(shape)}")
