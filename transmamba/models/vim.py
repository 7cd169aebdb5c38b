"""Vim, the bidirectional vision Mamba, as published and with a Transformer's MLP behind every mixer.

Zhu et al., "Vision Mamba: Efficient Visual Representation Learning with Bidirectional State Space Model"
(https://arxiv.org/abs/2401.09417). State-dict names are those of the published checkpoints.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from transmamba.layers import BiMamba, PatchEmbed, TransMambaBlock, create_norm
from transmamba.layers.checks import int_from_zero, positive_int, ratio_of_mlp
from transmamba.models.initialisation import (
    initialise_blocks,
    initialise_linears,
    initialise_patches,
    initialise_tokens,
)
from transmamba.models.registry import register_model
from transmamba.models.student import Student, run_block

if TYPE_CHECKING:
    from transmamba.distill.taps import Taps


@dataclasses.dataclass(frozen=True)
class VimConfig:
    """Shape of a Vim. The defaults are the published Vim-Ti at 224 x 224.

    Attributes:
        image_size, patch_size, stride, in_channels: Of the square images; ``stride`` None means ``patch_size``.
        num_classes: Outputs of the head; 0 leaves the features as they are.
        d_model, depth: Width of the tokens and number of blocks.
        d_state, d_conv, expand: Of the mixers.
        mlp_ratio: Hidden units of the MLP over ``d_model``; 0 for no MLP, as published.
        norm, norm_eps: ``"rms"`` (published) or ``"layer"``, which a ViT's norms can be copied into.
        class_token: ``"middle"`` (published) or ``"head"`` of the sequence, or ``"none"``: mean over the tokens.
        if_divide_out: Halve the sum of the two directions, as the published ``div2`` models do.
        bias: Whether the outer projections of the mixers have a bias; the published ones do not.
    """

    image_size: int = 224
    patch_size: int = 16
    stride: int | None = None
    in_channels: int = 3
    num_classes: int = 1000
    d_model: int = 192
    depth: int = 24
    d_state: int = 16
    d_conv: int = 4
    expand: int = 2
    mlp_ratio: float = 0.0
    norm: str = "rms"
    norm_eps: float = 1e-5
    class_token: str = "middle"
    if_divide_out: bool = True
    bias: bool = False

    def __post_init__(self) -> None:
        positive_int(depth=self.depth)
        int_from_zero(num_classes=self.num_classes)
        ratio_of_mlp(self.mlp_ratio)
        if self.class_token not in ("middle", "head", "none"):
            raise ValueError(f"class_token must be 'middle', 'head' or 'none', got {self.class_token!r}")
        if self.norm not in ("rms", "layer"):
            raise ValueError(f"norm must be 'rms' or 'layer', got {self.norm!r}")

    @property
    def d_hidden(self) -> int:
        """Hidden units of each MLP."""
        return round(self.mlp_ratio * self.d_model)


class Vim(Student):
    """Patches, position embedding, blocks, norm, head: ``(batch, in_channels, H, W)`` to ``(batch, num_classes)``."""

    outside: ClassVar[dict[str, str]] = {
        "cls_token": "class_token",
        "pos_embed": "position",
        "patch_embed.proj.weight": "patch_weight",
        "patch_embed.proj.bias": "patch_bias",
        "norm_f.weight": "final_norm_weight",
        "norm_f.bias": "final_norm_bias",
        "head.weight": "head_weight",
        "head.bias": "head_bias",
    }

    def __init__(self, config: VimConfig):
        super().__init__()
        self.config = config
        self.name = "vim_tiny"
        d = config.d_model
        self.patch_embed = PatchEmbed(config.image_size, config.patch_size, config.in_channels, d, config.stride)
        self.grid = self.patch_embed.grid
        patches = self.grid[0] * self.grid[1]
        self.class_position = {"middle": patches // 2, "head": 0, "none": None}[config.class_token]
        has_class = self.class_position is not None
        self.cls_token = nn.Parameter(torch.zeros(1, 1, d)) if has_class else None
        self.pos_embed = nn.Parameter(torch.zeros(1, patches + has_class, d))
        blocks = bidirectional_blocks(config)
        self.layers = nn.ModuleList(blocks)
        self.layer_names = [f"layers.{i}" for i in range(config.depth)]
        self.directions = blocks[0].directions
        self.norm_f = create_norm(config.norm, d, config.norm_eps)
        self.head = nn.Linear(d, config.num_classes) if config.num_classes else nn.Identity()
        initialise_patches(self.patch_embed.proj)
        initialise_tokens(self.cls_token, self.pos_embed)
        initialise_linears(self.head)
        initialise_blocks(blocks)

    def forward_features(self, images: Tensor, taps: Taps | None = None) -> Tensor:
        """Return the feature under the head, ``(batch, d_model)``: the class token, or the mean over the tokens.

        ``taps`` receives every block's output, and each direction's if it wants them, without the class token.
        """
        x = self.patch_embed(images)
        p = self.class_position
        if self.cls_token is not None:
            x = torch.cat([x[:, :p], self.cls_token.expand(x.shape[0], -1, -1).to(x.dtype), x[:, p:]], dim=1)
        x = x + self.pos_embed
        for i, layer in enumerate(self.layers):
            x = run_block(layer, x, i, taps, self._visual)
        x = x.to(self.norm_f.weight.dtype)
        return self.norm_f(x).mean(1) if p is None else self.norm_f(x[:, p])

    def _visual(self, x: Tensor) -> Tensor:
        p = self.class_position
        if p is None:
            return x
        return x[:, 1:] if p == 0 else torch.cat([x[:, :p], x[:, p + 1 :]], dim=1)


def bidirectional_blocks(config: Any) -> list[TransMambaBlock]:
    """The blocks of a Vim, or of another student whose ``config`` has the same options."""
    return [
        TransMambaBlock(
            BiMamba(
                config.d_model,
                config.d_state,
                config.d_conv,
                config.expand,
                bias=config.bias,
                if_divide_out=config.if_divide_out,
            ),
            config.d_hidden,
            config.norm,
            config.norm_eps,
        )
        for _ in range(config.depth)
    ]


register_model("vim_tiny", Vim, VimConfig())
register_model("vim_small", Vim, VimConfig(d_model=384))
register_model("vim_base", Vim, VimConfig(d_model=768))

# With an MLP a block holds what a ViT's block holds, so depth and widths are DeiT's.
_WITH_MLP = VimConfig(depth=12, mlp_ratio=4.0, norm="layer", norm_eps=1e-6)
register_model("transmamba_vim_tiny", Vim, _WITH_MLP)
register_model("transmamba_vim_small", Vim, dataclasses.replace(_WITH_MLP, d_model=384))
register_model("transmamba_vim_base", Vim, dataclasses.replace(_WITH_MLP, d_model=768))
# For 8 x 8 digits. Mean pooling: at this size a cloned student learns faster with it than with a class token.
_MICRO = dataclasses.replace(
    _WITH_MLP,
    image_size=8,
    patch_size=2,
    in_channels=1,
    num_classes=10,
    d_model=64,
    depth=4,
    mlp_ratio=2.0,
    class_token="none",
)
register_model("transmamba_vim_micro", Vim, _MICRO)
