"""VMamba's mixer: the rows and the columns of the image, both ways, each scan with parameters of its own."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from transmamba.layers.checks import positive_int, tokens_of_width
from transmamba.layers.parameters import (
    depthwise_conv2d,
    inner_sizes,
    skip_parameter,
    state_matrix,
    state_matrix_parameter,
    step_size_projection,
    without_weight_decay,
)
from transmamba_kernels import multi_scan, scan_orders


class SS2D(nn.Module):
    r"""2-D selective scan of Liu et al., "VMamba" (https://arxiv.org/abs/2401.10166), section 4.2, without a gate.

    .. math:: \mathrm{out} = W_{out}\, \mathrm{LN}\Big(\sum_{k=1}^{4} \mathrm{scan}_k(u, \Delta_k, B_k, C_k)\Big)

    with :math:`u` the input after a depthwise 2-D convolution. This is the layout of the authors' second version
    (``v05_noz``), whose parameter names and shapes these are.

    Args:
        grid: Rows and columns of the tokens.
        expand: Inner width over ``d_model``.
        conv_size: Rows and columns of the convolution, odd.
        conv_bias, bias: Whether the convolution, and the two outer projections, have a bias.
        Others as in :class:`transmamba.layers.Mamba`.
    """

    directions = ("rows", "columns", "rows_back", "columns_back")
    orders: Tensor

    def __init__(
        self,
        d_model: int,
        grid: tuple[int, int],
        d_state: int = 1,
        conv_size: int = 3,
        expand: float = 2.0,
        dt_rank: int | str = "auto",
        conv_bias: bool = False,
        bias: bool = False,
        device=None,
        dtype=None,
    ):
        super().__init__()
        positive_int(d_model=d_model, d_state=d_state)
        self.d_model, self.d_state, self.expand, self.grid = d_model, d_state, expand, tuple(grid)
        self.d_inner, self.dt_rank = inner_sizes(d_model, expand, dt_rank)
        self.register_buffer("orders", scan_orders.cross_scan(*grid), persistent=False)

        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        k, inner = len(self.directions), self.d_inner
        self.in_proj = nn.Linear(d_model, inner, bias=bias, **factory)
        self.conv2d = depthwise_conv2d(inner, conv_size, conv_bias, **factory)
        self.x_proj_weight = nn.Parameter(torch.empty(k, self.dt_rank + 2 * d_state, inner, **factory))
        nn.init.uniform_(self.x_proj_weight, -(inner**-0.5), inner**-0.5)
        steps = [step_size_projection(self.dt_rank, inner, **factory) for _ in range(k)]
        self.dt_projs_weight = nn.Parameter(torch.stack([step.weight.detach() for step in steps]))
        self.dt_projs_bias = without_weight_decay(torch.stack([step.bias.detach() for step in steps]))
        self.A_logs = state_matrix_parameter(k * inner, d_state, device)
        self.Ds = skip_parameter(k * inner, device)
        self.out_norm = nn.LayerNorm(inner, **factory)
        self.out_proj = nn.Linear(inner, d_model, bias=bias, **factory)

    def forward(self, hidden_states: Tensor, return_directions: bool = False) -> Tensor | tuple[Tensor, list[Tensor]]:
        """Mix ``hidden_states`` ``(batch, rows * columns, d_model)``; the shape is kept.

        Returns:
            ``out``, or with ``return_directions`` ``(out, [out_1, ... out_4])``: each direction's own output, in
            canonical order and scaled so that ``out`` is their mean.
        """
        tokens_of_width(hidden_states, self.d_model, self.grid)
        k, inner = len(self.directions), self.d_inner
        x = self.in_proj(hidden_states).transpose(1, 2).unflatten(2, self.grid)
        u = F.silu(self.conv2d(x)).flatten(2)
        projected = F.linear(u.transpose(1, 2), self.x_proj_weight.flatten(0, 1)).unflatten(-1, (k, -1))
        dt, B, C = projected.permute(0, 2, 1, 3).split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        scanned = multi_scan(
            u,
            torch.matmul(dt, self.dt_projs_weight.transpose(1, 2)).transpose(-1, -2),
            state_matrix(self.A_logs).unflatten(0, (k, inner)),
            B.transpose(-1, -2),
            C.transpose(-1, -2),
            self.orders,
            self.Ds.unflatten(0, (k, inner)),
            delta_bias=self.dt_projs_bias,
            delta_softplus=True,
            merge="none" if return_directions else "sum",
        )
        y = cast(Tensor, scanned).transpose(-1, -2)
        if not return_directions:
            return self.out_proj(self.out_norm(y))
        outputs = self.out_proj(self._norm_each(y))
        return outputs.mean(1), list(outputs.unbind(1))

    def _norm_each(self, y: Tensor) -> Tensor:
        """Normalise ``(batch, K, length, E)`` by the spread of their sum, so that their mean is exact."""
        dtype, y = y.dtype, y.to(torch.promote_types(y.dtype, torch.float32))
        y = y - y.mean(-1, keepdim=True)
        variance = y.sum(1, keepdim=True).square().mean(-1, keepdim=True)
        y = len(self.directions) * y * torch.rsqrt(variance + self.out_norm.eps)
        return (y * self.out_norm.weight + self.out_norm.bias).to(dtype)
