"""Vim, the bidirectional vision Mamba, as published and with a Transformer's MLP behind every mixer.

Zhu et al., "Vision Mamba: Efficient Visual Representation Learning with Bidirectional State Space Model"
(https://arxiv.org/abs/2401.09417). State-dict names are those of the published checkpoints.
"""

from __future__ import annotations

import dataclasses
import math
import re
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from transmamba.layers import PatchEmbed, TransMambaBlock, create_norm
from transmamba.layers.checks import positive_int
from transmamba.models.registry import register_model
from transmamba.models.roles import Role

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

    def __post_init__(self) -> None:
        positive_int(depth=self.depth)
        if isinstance(self.num_classes, bool) or not isinstance(self.num_classes, int) or self.num_classes < 0:
            raise ValueError(f"num_classes must be an int of at least 0, got {self.num_classes!r}")
        if not 0 <= self.mlp_ratio < math.inf:
            raise ValueError(f"mlp_ratio must be 0 (no MLP) or positive, got {self.mlp_ratio}")
        if self.class_token not in ("middle", "head", "none"):
            raise ValueError(f"class_token must be 'middle', 'head' or 'none', got {self.class_token!r}")
        if self.norm not in ("rms", "layer"):
            raise ValueError(f"norm must be 'rms' or 'layer', got {self.norm!r}")

    @property
    def d_hidden(self) -> int:
        """Hidden units of each MLP."""
        return round(self.mlp_ratio * self.d_model)


class Vim(nn.Module):
    """Patches, position embedding, blocks, norm, head: ``(batch, in_channels, H, W)`` to ``(batch, num_classes)``.

    Attributes:
        config: The :class:`VimConfig`.
        grid: Patches per column and row.
        directions: Names of the scan directions, in the order in which taps record them.
    """

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
        blocks = [
            TransMambaBlock(
                d,
                config.d_hidden,
                config.d_state,
                config.d_conv,
                config.expand,
                config.norm,
                config.norm_eps,
                config.if_divide_out,
                layer_idx=i,
            )
            for i in range(config.depth)
        ]
        self.layers = nn.ModuleList(blocks)
        self.directions = blocks[0].directions
        self.norm_f = create_norm(config.norm, d, config.norm_eps)
        self.head = nn.Linear(d, config.num_classes) if config.num_classes else nn.Identity()
        self._initialise(blocks)

    def _initialise(self, blocks: list[TransMambaBlock]) -> None:
        """Start what lies outside the mixers as Vim does.

        Without MLPs the mixers' outputs are scaled to the depth, as published. Beside an MLP only the MLP's are: a
        fresh mixer is far quieter than the attention it stands for already.
        """
        nn.init.normal_(self.patch_embed.proj.weight, std=self.patch_embed.proj.weight[0].numel() ** -0.5)
        if self.patch_embed.proj.bias is not None:
            nn.init.zeros_(self.patch_embed.proj.bias)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        if self.cls_token is not None:
            nn.init.trunc_normal_(self.cls_token, std=0.02)
        if isinstance(self.head, nn.Linear):
            nn.init.trunc_normal_(self.head.weight, std=0.02)
            nn.init.zeros_(self.head.bias)
        with torch.no_grad():
            for layer in blocks:
                if layer.mlp is None:
                    layer.mixer.out_proj.weight /= math.sqrt(self.config.depth)
                else:
                    nn.init.zeros_(layer.mlp.fc1.bias)
                    nn.init.zeros_(layer.mlp.fc2.bias)
                    layer.mlp.fc2.weight /= math.sqrt(2 * self.config.depth)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits ``(batch, num_classes)``."""
        return self.head(self.forward_features(images))

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
            if taps is None or not taps.wants(i):
                x = layer(x)
            elif taps.wants_directions:
                x, directions = layer(x, return_directions=True)
                taps.record(i, self._visual(x), [self._visual(f) for f in directions])
            else:
                x = layer(x)
                taps.record(i, self._visual(x), [])
        x = x.to(self.norm_f.weight.dtype)
        return self.norm_f(x).mean(1) if p is None else self.norm_f(x[:, p])

    def clone_roles(self) -> dict[str, Role]:
        """Role of every parameter, for :func:`transmamba.distill.subclone`."""
        return {name: _role(name) for name, _ in self.named_parameters()}

    def _visual(self, x: Tensor) -> Tensor:
        p = self.class_position
        if p is None:
            return x
        return x[:, 1:] if p == 0 else torch.cat([x[:, :p], x[:, p + 1 :]], dim=1)


_OUTSIDE = {
    "cls_token": "class_token",
    "pos_embed": "position",
    "patch_embed.proj.weight": "patch_weight",
    "patch_embed.proj.bias": "patch_bias",
    "norm_f.weight": "final_norm_weight",
    "norm_f.bias": "final_norm_bias",
    "head.weight": "head_weight",
    "head.bias": "head_bias",
}
_IN_LAYER = {
    "norm.weight": "norm1_weight",
    "norm.bias": "norm1_bias",
    "norm2.weight": "norm2_weight",
    "norm2.bias": "norm2_bias",
    "mlp.fc1.weight": "fc1_weight",
    "mlp.fc1.bias": "fc1_bias",
    "mlp.fc2.weight": "fc2_weight",
    "mlp.fc2.bias": "fc2_bias",
}


def _role(name: str) -> Role:
    layer = re.match(r"layers\.(\d+)\.(.+)", name)
    if layer is None:
        return Role(_OUTSIDE[name])
    return Role(_IN_LAYER.get(layer[2], "mixer"), int(layer[1]))


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
