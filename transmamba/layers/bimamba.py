"""Vim's bidirectional Mamba: two scans over one projection, one from each end."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from transmamba.layers.checks import positive_int, tokens_of_width
from transmamba.layers.mamba import scan_inputs, split_channels
from transmamba.layers.parameters import (
    depthwise_conv,
    inner_sizes,
    skip_parameter,
    state_matrix_parameter,
    step_size_projection,
)
from transmamba_kernels import bidirectional_scan
from transmamba_kernels.cross_mamba.arguments import check_mask, leave_out


class BiMamba(nn.Module):
    r"""Bidirectional mixer of Zhu et al., "Vision Mamba" (https://arxiv.org/abs/2401.09417), algorithm 1 (``v2``).

    .. math:: \mathrm{out} = W_{out}\big(s\,(y_f + y_b)\big), \qquad s = 1/2 \text{ if divided, else } 1

    Both directions share ``in_proj``, the gate and ``out_proj``; each has its own convolution, ``x_proj``,
    ``dt_proj``, ``A`` and ``D``, the backward ones under the published names ``conv1d_b``, ``x_proj_b``,
    ``dt_proj_b``, ``A_b_log``, ``D_b``. The kernels run the backward direction from the last token, so nothing is
    flipped and both outputs are in canonical order.

    Args:
        if_divide_out: Halve the sum of the directions, as the published ``div2`` models do.
        Others as in :class:`transmamba.layers.Mamba`.
    """

    directions = ("forward", "backward")

    def __init__(
        self,
        d_model: int,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        dt_rank: int | str = "auto",
        dt_min: float = 1e-3,
        dt_max: float = 0.1,
        dt_init: str = "random",
        dt_scale: float = 1.0,
        dt_init_floor: float = 1e-4,
        conv_bias: bool = True,
        bias: bool = False,
        if_divide_out: bool = True,
        layer_idx: int | None = None,
        device=None,
        dtype=None,
    ):
        super().__init__()
        positive_int(d_model=d_model, d_state=d_state, d_conv=d_conv)
        self.d_model, self.d_state, self.d_conv, self.expand = d_model, d_state, d_conv, expand
        self.d_inner, self.dt_rank = inner_sizes(d_model, expand, dt_rank)
        self.if_divide_out = if_divide_out
        self.layer_idx = layer_idx

        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        step_size = (dt_min, dt_max, dt_init, dt_scale, dt_init_floor)
        self.in_proj = nn.Linear(d_model, 2 * self.d_inner, bias=bias, **factory)
        self.conv1d = depthwise_conv(self.d_inner, d_conv, conv_bias, **factory)
        self.x_proj = nn.Linear(self.d_inner, self.dt_rank + 2 * d_state, bias=False, **factory)
        self.dt_proj = step_size_projection(self.dt_rank, self.d_inner, *step_size, **factory)
        self.A_log = state_matrix_parameter(self.d_inner, d_state, device)
        self.D = skip_parameter(self.d_inner, device)
        self.conv1d_b = depthwise_conv(self.d_inner, d_conv, conv_bias, **factory)
        self.x_proj_b = nn.Linear(self.d_inner, self.dt_rank + 2 * d_state, bias=False, **factory)
        self.dt_proj_b = step_size_projection(self.dt_rank, self.d_inner, *step_size, **factory)
        self.A_b_log = state_matrix_parameter(self.d_inner, d_state, device)
        self.D_b = skip_parameter(self.d_inner, device)
        self.out_proj = nn.Linear(self.d_inner, d_model, bias=bias, **factory)

    def forward(
        self, hidden_states: Tensor, mask: Tensor | None = None, return_directions: bool = False
    ) -> Tensor | tuple[Tensor, list[Tensor]]:
        """Mix ``hidden_states`` ``(batch, length, d_model)``; the shape is kept.

        Args:
            mask: False where a token is padding, before or behind the others: bool ``(batch, length)``, at least one
                True in every row. The outputs of the others are those of the sequence without padding; what stands at
                the padding means nothing.

        Returns:
            ``out``, or with ``return_directions`` ``(out, [out_forward, out_backward])``: each direction's own output,
            in canonical order and scaled so that ``out`` is their mean.
        """
        tokens_of_width(hidden_states, self.d_model)
        x, z = split_channels(self.in_proj(hidden_states))
        if mask is not None:
            check_mask(mask, *hidden_states.shape[:2])
            x = x.masked_fill(~mask.unsqueeze(1), 0.0)  # what the convolutions see beyond an end
        forward = scan_inputs(x, self.conv1d, self.x_proj, self.dt_proj, self.A_log, self.D)
        backward = scan_inputs(x, self.conv1d_b, self.x_proj_b, self.dt_proj_b, self.A_b_log, self.D_b, reverse=True)
        if mask is not None:
            for inputs in (forward, backward):
                inputs["delta"], _ = leave_out(mask, inputs["delta"], None, delta_softplus=True)
        own = {f"{name}_reverse": tensor for name, tensor in backward.items()}
        merge = "none" if return_directions else "sum"
        scanned = bidirectional_scan(**forward, **own, z=z, delta_softplus=True, merge=merge)
        y = cast(Tensor, scanned).transpose(-1, -2)  # without the last state, channel-last
        if not return_directions:
            return self.out_proj(y / 2 if self.if_divide_out else y)
        # The projection is linear: each direction is projected once and the sum is taken behind it.
        outputs = list(self.out_proj(y if self.if_divide_out else 2 * y).unbind(1))
        return torch.lerp(outputs[0], outputs[1], 0.5), outputs
