"""PlainMamba's mixer: one set of parameters, scanned through the image along four snakes."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from transmamba.layers.checks import positive_int, tokens_of_width
from transmamba.layers.mamba import split_channels
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


class PlainMamba2D(nn.Module):
    r"""Continuous 2-D scanning of Yang et al., "PlainMamba" (https://arxiv.org/abs/2403.17695), section 3.3.

    .. math::
        \mathrm{out} = W_{out}\Big(\mathrm{silu}(z) \odot
            \sum_{k=1}^{4} \mathrm{scan}_k(u, \Delta, B + \Theta_k, C)\Big)

    with :math:`u` the input after a depthwise 2-D convolution. The directions share all parameters but
    :math:`\Theta_k`, a learned vector of ``d_state`` per step: that of the movement by which the scan came to it (none,
    right, left, up, down). Parameter names and shapes are those of the published checkpoints.

    Args:
        grid: Rows and columns of the tokens.
        conv_size: Rows and columns of the convolution, odd.
        permute_params: With False, as in the published code and for its weights, only ``u`` is walked along the snake,
            and step ``t`` takes ``delta``, ``B`` and ``C`` of token ``t``; with True each token keeps its own.
        double_dt_bias: Add the bias of ``dt_proj`` twice, as the published code does and its weights need.
        Others as in :class:`transmamba.layers.Mamba`.
    """

    directions = ("rows", "rows_back", "columns", "columns_back")
    orders: Tensor
    moves: Tensor

    def __init__(
        self,
        d_model: int,
        grid: tuple[int, int],
        d_state: int = 16,
        conv_size: int = 7,
        expand: int = 2,
        dt_rank: int | str = "auto",
        conv_bias: bool = True,
        bias: bool = True,
        permute_params: bool = False,
        double_dt_bias: bool = True,
        device=None,
        dtype=None,
    ):
        super().__init__()
        positive_int(d_model=d_model, d_state=d_state)
        self.d_model, self.d_state, self.expand, self.grid = d_model, d_state, expand, tuple(grid)
        self.d_inner, self.dt_rank = inner_sizes(d_model, expand, dt_rank)
        self.permute_params, self.double_dt_bias = permute_params, double_dt_bias
        orders = scan_orders.plain_mamba(*grid)
        moves = _movements(orders, grid[1])
        self.register_buffer("orders", orders, persistent=False)
        self.register_buffer(
            "moves", moves.gather(1, scan_orders.inverse(orders)) if permute_params else moves, persistent=False
        )

        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        self.in_proj = nn.Linear(d_model, 2 * self.d_inner, bias=bias, **factory)
        self.conv2d = depthwise_conv2d(self.d_inner, conv_size, conv_bias, **factory)
        self.x_proj = nn.Linear(self.d_inner, self.dt_rank + 2 * d_state, bias=False, **factory)
        self.dt_proj = step_size_projection(self.dt_rank, self.d_inner, **factory)
        if double_dt_bias:
            with torch.no_grad():
                self.dt_proj.bias.div_(2)
        self.A_log = state_matrix_parameter(self.d_inner, d_state, device)
        self.D = skip_parameter(self.d_inner, device)
        self.out_proj = nn.Linear(self.d_inner, d_model, bias=bias, **factory)
        self.direction_Bs = without_weight_decay(torch.empty(5, d_state, **factory))
        nn.init.trunc_normal_(self.direction_Bs, std=0.02)

    def forward(self, hidden_states: Tensor, return_directions: bool = False) -> Tensor | tuple[Tensor, list[Tensor]]:
        """Mix ``hidden_states`` ``(batch, rows * columns, d_model)``; the shape is kept.

        Returns:
            ``out``, or with ``return_directions`` ``(out, [out_1, ... out_4])``: each direction's own output, in
            canonical order and scaled so that ``out`` is their mean.
        """
        tokens_of_width(hidden_states, self.d_model, self.grid)
        x, z = split_channels(self.in_proj(hidden_states))
        u = F.silu(self.conv2d(x.unflatten(2, self.grid))).flatten(2)
        dt, B, C = self.x_proj(u.transpose(1, 2)).split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        movement = self.direction_Bs[self.moves].transpose(1, 2).to(B.dtype)
        bias = self.dt_proj.bias
        scanned = multi_scan(
            u,
            F.linear(dt, self.dt_proj.weight).transpose(1, 2),
            state_matrix(self.A_log),
            B.transpose(1, 2).unsqueeze(1) + movement,
            C.transpose(1, 2),
            self.orders,
            self.D,
            z,
            2 * bias if self.double_dt_bias else bias,
            delta_softplus=True,
            merge="none" if return_directions else "sum",
            permute_params=self.permute_params,
        )
        y = cast(Tensor, scanned).transpose(-1, -2)
        if not return_directions:
            return self.out_proj(y)
        outputs = self.out_proj(len(self.directions) * y)
        return outputs.mean(1), list(outputs.unbind(1))


def _movements(orders: Tensor, columns: int) -> Tensor:
    """By which movement each step is reached, ``(K, length)``: 0 the first, 1 right, 2 left, 3 up, 4 down."""
    rows, places = (orders // columns).diff(dim=1), (orders % columns).diff(dim=1)
    moved = (places == 1) * 1 + (places == -1) * 2 + (rows == -1) * 3 + (rows == 1) * 4
    return F.pad(moved, (1, 0))
