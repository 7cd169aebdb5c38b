"""The block of a student: a Mamba mixer, and behind it the MLP a Transformer's weights can go into."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from transmamba.layers.bimamba import BiMamba
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


class TransMambaBlock(nn.Module):
    r"""Pre-norm residual block: ``h = x + mixer(norm(x))``, then ``h + mlp(norm2(h))`` when there is an MLP.

    The residual stream is kept in float32 when the weights are 16 bits wide, as in the published Vim.

    With ``return_directions`` the block also returns one feature per scan direction,

    .. math:: F_k = x + o_k + \mathrm{mlp}(\mathrm{norm}_2(h)),

    where ``o_k`` is the mixer's output for direction ``k``. The mean of ``F_k`` over the directions is exactly the
    block's output: the mixer is linear behind its scans, and what the MLP adds belongs to all directions alike.

    Args:
        d_hidden: Hidden units of the MLP; 0 for no MLP, which is a block of the published Vim.
        norm: ``"layer"`` or ``"rms"``.
        Others as in :class:`transmamba.layers.BiMamba`.
    """

    def __init__(
        self,
        d_model: int,
        d_hidden: int = 0,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        norm: str = "layer",
        norm_eps: float = 1e-5,
        if_divide_out: bool = True,
        layer_idx: int | None = None,
        device=None,
        dtype=None,
    ):
        super().__init__()
        factory = {"device": device, "dtype": dtype}
        self.norm = create_norm(norm, d_model, norm_eps, **factory)
        self.mixer = BiMamba(
            d_model, d_state, d_conv, expand, if_divide_out=if_divide_out, layer_idx=layer_idx, **factory
        )
        self.norm2 = create_norm(norm, d_model, norm_eps, **factory) if d_hidden else None
        self.mlp = MLP(d_model, d_hidden, **factory) if d_hidden else None

    @property
    def directions(self) -> tuple[str, ...]:
        """Names of the mixer's scan directions, in the order of ``return_directions``."""
        return self.mixer.directions

    def forward(self, x: Tensor, return_directions: bool = False) -> Tensor | tuple[Tensor, list[Tensor]]:
        """Map ``(batch, length, d_model)`` to the same shape; with ``return_directions`` also the list of ``F_k``."""
        weight = self.mixer.in_proj.weight
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        mixed = self.mixer(self.norm(x.to(weight.dtype)), return_directions)
        out, outputs = mixed if return_directions else (mixed, [])
        h = x + out
        if self.mlp is None or self.norm2 is None:
            return (h, [x + o for o in outputs]) if return_directions else h
        added = self.mlp(self.norm2(h.to(weight.dtype)))
        if not return_directions:
            return h + added
        shared = x + added
        return h + added, [shared + o for o in outputs]
