"""Cross-Mamba: a scan over the tokens of an image in which a text takes part."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from transmamba.layers.checks import positive_int, tokens_of_width
from transmamba.layers.mamba import scan_inputs, split_channels
from transmamba.layers.parameters import (
    depthwise_conv,
    inner_sizes,
    state_matrix_parameter,
    step_size_projection,
)
from transmamba_kernels import cross_mamba, selective_scan
from transmamba_kernels.cross_mamba.arguments import check_mask, leave_out

MODES = ("query_pool", "query_attn", "state", "kv")


class CrossMamba(nn.Module):
    r"""Mixer of an image's tokens that a text reads, starts or is read in, with a gate that is closed at the start.

    .. math:: h_t = \exp(\Delta_t A)\, h_{t-1} + \Delta_t B_t u_t, \qquad
        \mathrm{out}_t = \gamma \odot W_{out}\big(C_t^\top h_t \odot \mathrm{silu}(z_t)\big), \qquad
        \gamma = 0 \text{ at the start}

    The cross-Mamba module of "TransMamba" (https://arxiv.org/abs/2502.15130), which takes ``C`` from one modality and
    the rest from the other. What the text gives depends on ``mode``:

    - ``"query_pool"``: ``C`` is a projection of the mean of the text's tokens, the same for every token of the image.
    - ``"query_attn"``: ``C`` of a token is a mean of projected text tokens, weighted by how well they answer it.
    - ``"state"``: the state that both directions start from is the one that a scan of the text ends with.
    - ``"kv"``: the text is scanned instead, and the image reads its last state with ``C``.

    There is no ``D u``, which would pass the image by the text: a block's residual does that already, and beside it the
    text is hardly heard (docs/vqa.md). Where a text is scanned, it takes the image's way through the layer from the
    convolution on. Placed behind a block of a trained model (:func:`transmamba.models.with_text`) the layer adds
    exactly 0 before it is trained.

    Args:
        d_model: Width of the image's tokens.
        d_text: Width of the text's tokens.
        mode: One of :data:`MODES`.
        text_delta: Let the mean of the text's tokens also shift the step size of each channel: how much the image's
            state remembers. Not with ``"kv"``, which has no such state.
        bidirectional: Scan from both ends and add up, or only from the first token.
        Others as in :class:`transmamba.layers.Mamba`.
    """

    directions = ("merged",)

    def __init__(
        self,
        d_model: int,
        d_text: int,
        mode: str = "query_pool",
        text_delta: bool = False,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        dt_rank: int | str = "auto",
        bidirectional: bool = True,
        device=None,
        dtype=None,
    ):
        super().__init__()
        positive_int(d_model=d_model, d_text=d_text, d_state=d_state, d_conv=d_conv)
        if mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
        if text_delta and mode == "kv":
            raise ValueError("text_delta must be False with mode 'kv': the image has no state whose steps it could set")
        self.d_model, self.d_text, self.mode, self.bidirectional = d_model, d_text, mode, bidirectional
        d_inner, dt_rank = inner_sizes(d_model, expand, dt_rank)

        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        self.in_proj = nn.Linear(d_model, 2 * d_inner, bias=False, **factory)
        self.conv1d = depthwise_conv(d_inner, d_conv, True, **factory)
        self.x_proj = nn.Linear(d_inner, dt_rank + 2 * d_state, bias=False, **factory)
        self.dt_proj = step_size_projection(dt_rank, d_inner, **factory)
        self.A_log = state_matrix_parameter(d_inner, d_state, device)
        self.out_proj = nn.Linear(d_inner, d_model, bias=False, **factory)
        self.gate = nn.Parameter(torch.zeros(d_model, **factory))
        self.text_norm = nn.LayerNorm(d_text, **factory)

        def project(width: int, out: int) -> nn.Linear:
            return nn.Linear(width, out, bias=False, **factory)

        if mode in ("state", "kv"):
            self.text_proj = project(d_text, d_inner)
        if mode != "state":
            self.C_proj = project(d_inner if mode == "kv" else d_text, d_state)
        if mode == "query_attn":
            self.query_proj, self.key_proj = project(d_inner, d_state), project(d_text, d_state)
        self.text_delta = project(d_text, d_inner) if text_delta else None

    def forward(
        self, hidden_states: Tensor, text: Tensor, mask: Tensor | None = None, return_directions: bool = False
    ) -> Tensor | tuple[Tensor, list[Tensor]]:
        """Mix ``hidden_states``, the image's tokens ``(batch, length, d_model)``; the shape is kept.

        Args:
            text: ``(batch, words, d_text)``.
            mask: ``(batch, words)`` of bool, False for padding; at least one True in every row.

        Returns:
            ``out``, or with ``return_directions`` ``(out, [out])``: the directions are added up by the scan.

        Raises:
            ValueError: A shape does not fit; the message names the argument.
        """
        tokens_of_width(hidden_states, self.d_model)
        if text.dim() != 3 or text.shape[0] != len(hidden_states) or text.shape[2] != self.d_text:
            expected = f"({len(hidden_states)}, words, {self.d_text})"
            raise ValueError(f"text must have shape (batch, words, d_text) = {expected}, got {tuple(text.shape)}")
        if mask is None:
            mask = text.new_ones(text.shape[:2], dtype=torch.bool)
        check_mask(mask, *text.shape[:2])
        text = self.text_norm(text).masked_fill(~mask.unsqueeze(-1), 0.0)
        x, z = split_channels(self.in_proj(hidden_states))
        y = cross_mamba(**self._roles(x, text, mask), z=z, delta_softplus=True, bidirectional=self.bidirectional)
        out = self.gate * self.out_proj(y.transpose(1, 2))
        return (out, [out]) if return_directions else out

    def _roles(self, x: Tensor, text: Tensor, mask: Tensor) -> dict[str, Any]:
        """The arguments of the scan, from the image's ``x`` ``(batch, E, length)`` and the text's tokens."""
        if self.mode == "kv":
            roles = self._scanned(self.text_proj(text))
            C = self.C_proj(x.transpose(1, 2)).transpose(1, 2)
            return {**roles, "C": C, "mask": mask, "of_last_state": True}
        roles, mean = self._scanned(x.transpose(1, 2)), text.sum(1) / mask.sum(1, keepdim=True)
        if self.text_delta is not None:
            roles["delta_bias"] = roles["delta_bias"] + self.text_delta(mean)
        if self.mode == "query_pool":
            roles["C"] = self.C_proj(mean).unsqueeze(-1)
        elif self.mode == "query_attn":
            query, key, value = self.query_proj(x.transpose(1, 2)), self.key_proj(text), self.C_proj(text)
            answers = F.scaled_dot_product_attention(query, key, value, attn_mask=mask.unsqueeze(1))
            roles["C"] = answers.transpose(1, 2)
        else:
            words = self._scanned(self.text_proj(text))
            words["delta"], _ = leave_out(mask, words["delta"], None, delta_softplus=True)
            _, roles["initial_state"] = selective_scan(**words, delta_softplus=True, return_last_state=True)
        return roles

    def _scanned(self, tokens: Tensor) -> dict[str, Any]:
        """Convolve ``tokens`` ``(batch, length, E)`` and project them to the arguments of a scan, by name."""
        return scan_inputs(tokens.transpose(1, 2), self.conv1d, self.x_proj, self.dt_proj, self.A_log, None)
