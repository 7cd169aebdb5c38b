"""Mamba-1: the layer of mamba_ssm, name by name and shape by shape, on our kernels."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from transmamba.layers.checks import positive_int, tokens_of_width
from transmamba.layers.parameters import (
    depthwise_conv,
    inner_sizes,
    skip_parameter,
    state_matrix,
    state_matrix_parameter,
    step_size_projection,
)
from transmamba_kernels import causal_conv1d, conv_state_update, selective_scan, state_update


class Mamba(nn.Module):
    r"""Selective state-space mixer of Gu and Dao, "Mamba" (https://arxiv.org/abs/2312.00752), figure 3 right.

    Parameter names and shapes are those of ``mamba_ssm.Mamba``, so its checkpoints load as they are. With
    ``E = expand * d_model`` inner channels, ``N = d_state`` and ``W = d_conv``: ``in_proj`` (2E, d_model), ``conv1d``
    (E, 1, W), ``x_proj`` (dt_rank + 2N, E), ``dt_proj`` (E, dt_rank), ``A_log`` (E, N), ``D`` (E), ``out_proj``
    (d_model, E). ``A_log`` and ``D`` stay in float32 whatever ``dtype`` is.

    Args:
        d_model: Width of the tokens.
        d_state: States per channel.
        d_conv: Taps of the causal convolution.
        expand: Inner width over ``d_model``.
        dt_rank: Rank of the projection to the step size; ``"auto"`` is ``ceil(d_model / 16)``.
        dt_min, dt_max, dt_init_floor: Range of the initial step size, drawn log-uniformly.
        dt_init: ``"random"`` or ``"constant"`` weights of ``dt_proj``, scaled by ``dt_scale / sqrt(dt_rank)``.
        conv_bias, bias: Whether the convolution, and the two outer projections, have a bias.
        layer_idx: Key of this layer's states in ``inference_params.key_value_memory_dict``.

    Raises:
        ValueError, TypeError: An argument is out of range; the message says which and what is allowed.
    """

    directions = ("forward",)

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
        layer_idx: int | None = None,
        device=None,
        dtype=None,
    ):
        super().__init__()
        positive_int(d_model=d_model, d_state=d_state, d_conv=d_conv)
        self.d_model, self.d_state, self.d_conv, self.expand = d_model, d_state, d_conv, expand
        self.d_inner, self.dt_rank = inner_sizes(d_model, expand, dt_rank)
        self.layer_idx = layer_idx

        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        step_size = (dt_min, dt_max, dt_init, dt_scale, dt_init_floor)
        self.in_proj = nn.Linear(d_model, 2 * self.d_inner, bias=bias, **factory)
        self.conv1d = depthwise_conv(self.d_inner, d_conv, conv_bias, **factory)
        self.x_proj = nn.Linear(self.d_inner, self.dt_rank + 2 * d_state, bias=False, **factory)
        self.dt_proj = step_size_projection(self.dt_rank, self.d_inner, *step_size, **factory)
        self.A_log = state_matrix_parameter(self.d_inner, d_state, device)
        self.D = skip_parameter(self.d_inner, device)
        self.out_proj = nn.Linear(self.d_inner, d_model, bias=bias, **factory)

    def forward(
        self, hidden_states: Tensor, inference_params: Any = None, return_directions: bool = False
    ) -> Tensor | tuple[Tensor, list[Tensor]]:
        """Mix ``hidden_states`` ``(batch, length, d_model)`` along the sequence; the shape is kept.

        With ``inference_params`` (mamba_ssm's: ``seqlen_offset`` and ``key_value_memory_dict``) the layer's states are
        created or found under ``layer_idx`` and updated in place: at offset 0 the whole prompt is scanned, later one
        token takes :meth:`step`, which has no gradients, and several tokens continue the scan. With
        ``return_directions`` the result is ``(out, [out])``, as that of a mixer with more than one direction.
        """
        if return_directions:
            out = cast(Tensor, self(hidden_states, inference_params))
            return out, [out]
        tokens_of_width(hidden_states, self.d_model)
        if inference_params is None:
            x, z = self._project(hidden_states)
            y, _ = scan_path(x, z, self.conv1d, self.x_proj, self.dt_proj, self.A_log, self.D)
            return self.out_proj(y)

        conv_state, ssm_state = self._states(inference_params, hidden_states.shape[0])
        if inference_params.seqlen_offset > 0 and hidden_states.shape[1] == 1:
            return self.step(hidden_states, conv_state, ssm_state)[0]
        if inference_params.seqlen_offset == 0:
            conv_state.zero_()
            ssm_state.zero_()
        x, z = self._project(hidden_states)
        y, last_state = scan_path(
            x, z, self.conv1d, self.x_proj, self.dt_proj, self.A_log, self.D, states=(conv_state[..., 1:], ssm_state)
        )
        with torch.no_grad():
            conv_state.copy_(torch.cat([conv_state, x.to(conv_state.dtype)], dim=-1)[..., -self.d_conv :])
            ssm_state.copy_(last_state)
        return self.out_proj(y)

    @torch.no_grad()
    def step(self, hidden_states: Tensor, conv_state: Tensor, ssm_state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Advance by one token, for decoding: without gradients.

        Args:
            hidden_states: ``(batch, 1, d_model)``.
            conv_state: Last ``d_conv`` inputs of the convolution, ``(batch, E, d_conv)``; updated in place.
            ssm_state: ``(batch, E, N)``; updated in place.

        Returns:
            ``(out, conv_state, ssm_state)`` with ``out`` ``(batch, 1, d_model)``.
        """
        tokens_of_width(hidden_states, self.d_model)
        if hidden_states.shape[1] != 1:
            raise ValueError(f"step takes one token at a time, got hidden_states of length {hidden_states.shape[1]}")
        x, z = self.in_proj(hidden_states.squeeze(1)).chunk(2, dim=-1)
        x = conv_state_update(x, conv_state, self.conv1d.weight.squeeze(1), self.conv1d.bias, "silu")
        dt, B, C = self.x_proj(x).split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        y = state_update(
            ssm_state,
            x,
            F.linear(dt, self.dt_proj.weight),
            state_matrix(self.A_log),
            B,
            C,
            self.D,
            z,
            # The op adds the bias of dt_proj, before the softplus.
            self.dt_proj.bias,
            dt_softplus=True,
        )
        return self.out_proj(y).unsqueeze(1), conv_state, ssm_state

    def allocate_inference_cache(self, batch_size: int, max_seqlen: int, dtype=None) -> tuple[Tensor, Tensor]:
        """Return zero ``(conv_state, ssm_state)``, ``(batch, E, W)`` and ``(batch, E, N)``; their size is constant.

        ``max_seqlen`` is accepted for mamba_ssm's signature and not used. ``dtype`` defaults to the weights'.
        """
        weight = self.conv1d.weight
        factory: dict[str, Any] = {"device": weight.device, "dtype": weight.dtype if dtype is None else dtype}
        return (
            torch.zeros(batch_size, self.d_inner, self.d_conv, **factory),
            torch.zeros(batch_size, self.d_inner, self.d_state, **factory),
        )

    def _project(self, hidden_states: Tensor) -> tuple[Tensor, Tensor]:
        return split_channels(self.in_proj(hidden_states))

    def _states(self, inference_params: Any, batch: int) -> tuple[Tensor, Tensor]:
        if self.layer_idx is None:
            raise ValueError("layer_idx must be given to Mamba when inference_params is used")
        memory = inference_params.key_value_memory_dict
        if self.layer_idx not in memory:
            memory[self.layer_idx] = self.allocate_inference_cache(batch, 0)
        conv_state, ssm_state = memory[self.layer_idx]
        if conv_state.shape[0] != batch:
            raise ValueError(
                f"hidden_states has batch {batch}, but the states of layer {self.layer_idx} hold {conv_state.shape[0]}"
            )
        return conv_state, ssm_state


def split_channels(projected: Tensor) -> tuple[Tensor, Tensor]:
    """Input and gate ``(batch, E, length)``, as views of ``(batch, length, 2E)``.

    The kernels read channel-last memory as it is. Split before it is transposed, so that the gradients of both are put
    together row by row.
    """
    x, z = projected.chunk(2, dim=-1)
    return x.transpose(1, 2), z.transpose(1, 2)


def scan_path(
    x: Tensor,
    z: Tensor,
    conv1d: nn.Conv1d,
    x_proj: nn.Linear,
    dt_proj: nn.Linear,
    A_log: Tensor,
    D: Tensor,
    *,
    states: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Convolution, input-dependent parameters and scan.

    Args:
        x, z: Input and gate, ``(batch, E, length)``.
        states: Initial states of the convolution ``(batch, E, W - 1)`` and of the scan ``(batch, E, N)``.

    Returns:
        The gated output, channel-last ``(batch, length, E)``, and the last scan state, empty without ``states``.
    """
    conv_state, ssm_state = (None, None) if states is None else states
    result = selective_scan(
        **scan_inputs(x, conv1d, x_proj, dt_proj, A_log, D, initial_state=conv_state),
        z=z,
        delta_softplus=True,
        initial_state=ssm_state,
        return_last_state=states is not None,
    )
    y, last_state = result if isinstance(result, tuple) else (result, result.new_empty(0))
    return y.transpose(1, 2), last_state


def scan_inputs(
    x: Tensor,
    conv1d: nn.Conv1d,
    x_proj: nn.Linear,
    dt_proj: nn.Linear,
    A_log: Tensor,
    D: Tensor | None,
    *,
    reverse: bool = False,
    initial_state: Tensor | None = None,
) -> dict[str, Any]:
    """Convolve ``x`` ``(batch, E, length)`` and project it to the arguments of one scan direction, by name.

    With ``reverse`` the convolution sees the future; ``initial_state`` is the convolution's.
    """
    dt_rank, d_state = dt_proj.in_features, A_log.shape[1]
    convolved = causal_conv1d(
        x, conv1d.weight.squeeze(1), conv1d.bias, activation="silu", initial_state=initial_state, reverse=reverse
    )
    u = cast(Tensor, convolved)  # without the final state
    dt, B, C = x_proj(u.transpose(1, 2)).split([dt_rank, d_state, d_state], dim=-1)
    return {
        "u": u,
        "delta": F.linear(dt, dt_proj.weight).transpose(1, 2),
        "A": state_matrix(A_log),
        "B": B.transpose(1, 2),
        "C": C.transpose(1, 2),
        "D": D,
        # The scan adds the bias of dt_proj, before the softplus.
        "delta_bias": dt_proj.bias,
    }
