"""How the students start, outside the scans, which :mod:`transmamba.layers` starts itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from transmamba.layers import TransMambaBlock


def initialise_blocks(blocks: Sequence[TransMambaBlock]) -> None:
    """Scale what blocks add to the residual stream to their number.

    The mixers' outer projections start with biases of 0, as those of mamba_ssm do. Without MLPs the mixers' outputs are
    scaled, as in the published Vim and Mamba. Beside an MLP only the MLP's are: a fresh mixer is far quieter than the
    attention it stands for already.
    """
    with torch.no_grad():
        for block in blocks:
            mixer: Any = block.get_submodule(block.mixer_name)
            for linear in (mixer.in_proj, mixer.out_proj):
                if linear.bias is not None:
                    nn.init.zeros_(linear.bias)
            if block.mlp is None:
                mixer.out_proj.weight /= math.sqrt(len(blocks))
                continue
            for name, bias in block.mlp.named_parameters():
                if name.endswith("bias"):
                    nn.init.zeros_(bias)
            block.mlp.fc2.weight /= math.sqrt(2 * len(blocks))


def initialise_patches(proj: nn.Conv2d | nn.Conv3d) -> None:
    """Start a patch embedding so that it keeps the size of white noise."""
    nn.init.normal_(proj.weight, std=proj.weight[0].numel() ** -0.5)
    if proj.bias is not None:
        nn.init.zeros_(proj.bias)


def initialise_tokens(*tokens: Tensor | None) -> None:
    """Start class tokens and position embeddings near 0."""
    for token in tokens:
        if token is not None:
            nn.init.trunc_normal_(token, std=0.02)


def initialise_linears(module: nn.Module) -> None:
    """Start every linear map within ``module``, a classifier or a whole model, near 0."""
    for linear in module.modules():
        if isinstance(linear, nn.Linear):
            nn.init.trunc_normal_(linear.weight, std=0.02)
            if linear.bias is not None:
                nn.init.zeros_(linear.bias)
