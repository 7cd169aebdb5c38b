"""Parameters of the mixers: their sizes, and how they start."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from transmamba.layers.checks import positive_int


def inner_sizes(d_model: int, expand: float, dt_rank: int | str = "auto") -> tuple[int, int]:
    """Inner channels ``expand * d_model``, and the rank of the step size, ``"auto"`` being ``ceil(d_model / 16)``."""
    if not expand > 0 or int(expand * d_model) < 1:
        raise ValueError(f"expand must be positive and give at least one inner channel, got {expand}")
    if dt_rank == "auto":
        dt_rank = math.ceil(d_model / 16)
    if isinstance(dt_rank, str):
        raise ValueError(f"dt_rank must be 'auto' or a positive int, got {dt_rank!r}")
    positive_int(dt_rank=dt_rank)
    return int(expand * d_model), dt_rank


def state_matrix(A_log: Tensor) -> Tensor:
    """``A = -exp(A_log)``, in float32 at least: rounding the decay to 16 bits would be felt over the whole sequence."""
    return -torch.exp(A_log.to(torch.promote_types(A_log.dtype, torch.float32)))


def state_matrix_parameter(d_inner: int, d_state: int, device=None) -> nn.Parameter:
    """S4D-real initialisation ``A_n = -n`` (Gu et al., https://arxiv.org/abs/2206.11893), stored as its logarithm."""
    steps = torch.arange(1, d_state + 1, dtype=torch.float32, device=device)
    return without_weight_decay(torch.log(steps).repeat(d_inner, 1))


def skip_parameter(d_inner: int, device=None) -> nn.Parameter:
    """``D = 1``: at the start the input passes."""
    return without_weight_decay(torch.ones(d_inner, device=device))


def depthwise_conv(d_inner: int, d_conv: int, bias: bool, device=None, dtype=None) -> nn.Conv1d:
    """Hold the weight ``(d_inner, 1, d_conv)`` under its published name; the kernel does the convolution."""
    return nn.Conv1d(
        d_inner, d_inner, d_conv, groups=d_inner, padding=d_conv - 1, bias=bias, device=device, dtype=dtype
    )


def depthwise_conv2d(channels: int, size: int, bias: bool, device=None, dtype=None) -> nn.Conv2d:
    """A filter of ``size`` x ``size``, odd, for each channel: the grid stays; ``size`` is a mixer's ``conv_size``."""
    positive_int(conv_size=size)
    if size % 2 == 0:
        raise ValueError(f"conv_size must be odd, got {size}")
    return nn.Conv2d(
        channels, channels, size, padding=size // 2, groups=channels, bias=bias, device=device, dtype=dtype
    )


def step_size_projection(
    dt_rank: int,
    d_inner: int,
    dt_min: float = 1e-3,
    dt_max: float = 0.1,
    dt_init: str = "random",
    dt_scale: float = 1.0,
    dt_init_floor: float = 1e-4,
    device=None,
    dtype=None,
) -> nn.Linear:
    """Projection to the step size, whose bias makes ``softplus(bias)`` log-uniform in ``[dt_min, dt_max]``.

    Section 3.6 of Gu and Dao, "Mamba".
    """
    if not 0 < dt_min <= dt_max:
        raise ValueError(f"dt_min and dt_max must satisfy 0 < dt_min <= dt_max, got {dt_min} and {dt_max}")
    if not dt_scale > 0 or not dt_init_floor > 0:
        raise ValueError(f"dt_scale and dt_init_floor must be positive, got {dt_scale} and {dt_init_floor}")
    projection = nn.Linear(dt_rank, d_inner, bias=True, device=device, dtype=dtype)
    bound = dt_scale * dt_rank**-0.5
    if dt_init == "constant":
        nn.init.constant_(projection.weight, bound)
    elif dt_init == "random":
        nn.init.uniform_(projection.weight, -bound, bound)
    else:
        raise ValueError(f"dt_init must be 'random' or 'constant', got {dt_init!r}")
    log_dt = torch.empty(d_inner, device=device, dtype=torch.float32).uniform_(math.log(dt_min), math.log(dt_max))
    dt = torch.exp(log_dt).clamp(min=dt_init_floor)
    with torch.no_grad():
        # The inverse of softplus, in the form that does not cancel for small dt.
        projection.bias.copy_(dt + torch.log(-torch.expm1(-dt)))
    projection.bias._no_reinit = True  # type: ignore[attr-defined]
    return projection


def without_weight_decay(values: Tensor) -> nn.Parameter:
    """A parameter that :func:`transmamba.optim.create_optimizer` does not let decay."""
    parameter = nn.Parameter(values)
    parameter._no_weight_decay = True  # type: ignore[attr-defined]
    return parameter
