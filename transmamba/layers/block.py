"""The block of a student: a Mamba mixer, and behind it the MLP a Transformer's weights can go into."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from transmamba.layers.checks import positive_int
from transmamba.layers.norm import create_norm


class MLP(nn.Module):
    """``fc2(gelu(fc1(x)))`` on ``(..., d_model)``: a ViT's feed-forward part, under timm's names."""

    def __init__(self, d_model: int, d_hidden: int, device=None, dtype=None):
        super().__init__()
        positive_int(d_model=d_model, d_hidden=d_hidden)
        self.fc1 = nn.Linear(d_model, d_hidden, device=device, dtype=dtype)
        self.fc2 = nn.Linear(d_hidden, d_model, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class GatedMLP(nn.Module):
    """``fc2(silu(gate(x)) * fc1(x))`` on ``(..., d_model)``, without biases: a Llama's feed-forward part.

    "SwiGLU" of Shazeer (https://arxiv.org/abs/2002.05202).
    """

    def __init__(self, d_model: int, d_hidden: int, device=None, dtype=None):
        super().__init__()
        positive_int(d_model=d_model, d_hidden=d_hidden)
        self.gate = nn.Linear(d_model, d_hidden, bias=False, device=device, dtype=dtype)
        self.fc1 = nn.Linear(d_model, d_hidden, bias=False, device=device, dtype=dtype)
        self.fc2 = nn.Linear(d_hidden, d_model, bias=False, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.silu(self.gate(x)) * self.fc1(x))


_MLPS: dict[str, type[MLP] | type[GatedMLP]] = {"gelu": MLP, "swiglu": GatedMLP}


class TransMambaBlock(nn.Module):
    r"""Pre-norm residual block: ``h = x + mixer(norm(x))``, then ``h + mlp(norm2(h))`` when there is an MLP.

    The residual stream is kept in float32 when the weights are 16 bits wide, as in the published Vim.

    With ``return_directions`` the block also returns one feature per scan direction,

    .. math:: F_k = x + o_k + \mathrm{mlp}(\mathrm{norm}_2(h)),

    where ``o_k`` is the mixer's output for direction ``k``. The mean of ``F_k`` over the directions is exactly the
    block's output: that of ``o_k`` is the mixer's, and what the MLP adds belongs to all directions alike.

    Args:
        mixer: One of :mod:`transmamba.layers`, with ``d_model``, ``directions`` and ``return_directions``.
        d_hidden: Hidden units of the MLP; 0 for no MLP, which is a block of the published Vim.
        norm: ``"layer"`` or ``"rms"``.
        mixer_name: The mixer's attribute, under which published checkpoints keep its weights.
        mlp: ``"gelu"``, a ViT's :class:`MLP`, or ``"swiglu"``, a Llama's :class:`GatedMLP`.
    """

    def __init__(
        self,
        mixer: nn.Module,
        d_hidden: int = 0,
        norm: str = "layer",
        norm_eps: float = 1e-5,
        mixer_name: str = "mixer",
        mlp: str = "gelu",
    ):
        super().__init__()
        if mlp not in _MLPS:
            raise ValueError(f"mlp must be one of {', '.join(_MLPS)}, got {mlp!r}")
        d_model: int = mixer.d_model  # type: ignore[assignment]
        weight: Tensor = mixer.in_proj.weight  # type: ignore[union-attr, assignment]
        factory: dict[str, Any] = {"device": weight.device, "dtype": weight.dtype}
        self.norm = create_norm(norm, d_model, norm_eps, **factory)
        self.mixer_name = mixer_name
        self.add_module(mixer_name, mixer)
        self.norm2 = create_norm(norm, d_model, norm_eps, **factory) if d_hidden else None
        self.mlp = _MLPS[mlp](d_model, d_hidden, **factory) if d_hidden else None

    @property
    def directions(self) -> tuple[str, ...]:
        """Names of the mixer's scan directions, in the order of ``return_directions``."""
        return self.get_submodule(self.mixer_name).directions  # type: ignore[return-value]

    def forward(
        self, x: Tensor, return_directions: bool = False, **options: Any
    ) -> Tensor | tuple[Tensor, list[Tensor]]:
        """Map ``(batch, length, d_model)`` to the same shape; with ``return_directions`` also the list of ``F_k``.

        ``options`` are handed to the mixer, such as the ``mask`` of :class:`transmamba.layers.BiMamba`.
        """
        dtype = self.norm.weight.dtype
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        mixer = getattr(self, self.mixer_name)
        mixed = mixer(self.norm(x.to(dtype)), return_directions=return_directions, **options)
        out, outputs = mixed if return_directions else (mixed, [])
        h = x + out
        if self.mlp is None or self.norm2 is None:
            return (h, [x + o for o in outputs]) if return_directions else h
        added = self.mlp(self.norm2(h.to(dtype)))
        if not return_directions:
            return h + added
        shared = x + added
        return h + added, [shared + o for o in outputs]
