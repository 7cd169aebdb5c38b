"""VideoMamba, Vim's blocks over the patches of all frames, as published and with a Transformer's MLPs.

Li et al., "VideoMamba: State Space Model for Efficient Video Understanding" (https://arxiv.org/abs/2403.06977).
State-dict names are those of the published checkpoints.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from transmamba.layers import create_norm
from transmamba.layers.checks import int_from_zero, positive_int, ratio_of_mlp
from transmamba.models.initialisation import (
    initialise_blocks,
    initialise_linears,
    initialise_patches,
    initialise_tokens,
)
from transmamba.models.registry import register_model
from transmamba.models.student import Student, run_block
from transmamba.models.vim import Vim, bidirectional_blocks
from transmamba_kernels import scan_orders

if TYPE_CHECKING:
    from transmamba.distill.taps import Taps


@dataclasses.dataclass(frozen=True)
class VideoMambaConfig:
    """Shape of a VideoMamba. The defaults are the published VideoMamba-Ti for 8 frames of 224 x 224.

    Attributes:
        image_size, patch_size, in_channels: Of the square frames.
        num_frames, tubelet_size: Frames, and how many of them a token covers.
        num_classes: Outputs of the head; 0 leaves the features as they are.
        d_model, depth: Width of the tokens and number of blocks.
        d_state, d_conv, expand: Of the mixers.
        mlp_ratio: Hidden units of the MLP over ``d_model``; 0 for no MLP, as published.
        norm, norm_eps: ``"rms"`` (published) or ``"layer"``, which a ViT's norms can be copied into.
        embedding_norm: Normalise the embedded tokens, as CLIP does and the published models do not.
        class_token: ``"head"`` of the sequence (published), or ``"none"``: mean over the tokens.
        order: ``"space_first"`` (published), frame by frame, or ``"time_first"``, place by place.
        if_divide_out: Halve the sum of the two directions; the published models do not.
        bias: Whether the outer projections of the mixers have a bias; the published ones do not.
    """

    image_size: int = 224
    patch_size: int = 16
    in_channels: int = 3
    num_frames: int = 8
    tubelet_size: int = 1
    num_classes: int = 400
    d_model: int = 192
    depth: int = 24
    d_state: int = 16
    d_conv: int = 4
    expand: int = 2
    mlp_ratio: float = 0.0
    norm: str = "rms"
    norm_eps: float = 1e-5
    embedding_norm: bool = False
    class_token: str = "head"
    order: str = "space_first"
    if_divide_out: bool = False
    bias: bool = False

    def __post_init__(self) -> None:
        positive_int(depth=self.depth, d_model=self.d_model, image_size=self.image_size, patch_size=self.patch_size)
        positive_int(num_frames=self.num_frames, tubelet_size=self.tubelet_size)
        if self.patch_size > self.image_size:
            raise ValueError(f"patch_size must be at most image_size ({self.image_size}), got {self.patch_size}")
        if self.num_frames % self.tubelet_size:
            raise ValueError(f"tubelet_size must divide num_frames ({self.num_frames}), got {self.tubelet_size}")
        int_from_zero(num_classes=self.num_classes)
        ratio_of_mlp(self.mlp_ratio)
        if self.class_token not in ("head", "none"):
            raise ValueError(f"class_token must be 'head' or 'none', got {self.class_token!r}")
        if self.order not in ("space_first", "time_first"):
            raise ValueError(f"order must be 'space_first' or 'time_first', got {self.order!r}")

    @property
    def d_hidden(self) -> int:
        """Hidden units of each MLP."""
        return round(self.mlp_ratio * self.d_model)


class VideoMamba(Student):
    """Tubelets, positions, blocks, norm, head: ``(batch, in_channels, frames, H, W)`` to ``(batch, num_classes)``."""

    outside: ClassVar[dict[str, str]] = {
        **Vim.outside,
        "norm_e.weight": "embedding_norm_weight",
        "norm_e.bias": "embedding_norm_bias",
    }
    to_time_first: Tensor | None
    to_space_first: Tensor | None

    def __init__(self, config: VideoMambaConfig):
        super().__init__()
        self.config = config
        self.name = "videomamba_tiny"
        self.layer_names = [f"layers.{i}" for i in range(config.depth)]
        d = config.d_model
        self.patch_embed = TubeletEmbed(config)
        self.grid = frames, rows, columns = self.patch_embed.grid
        has_class = config.class_token == "head"
        self.class_position = 0 if has_class else None
        self.cls_token = nn.Parameter(torch.zeros(1, 1, d)) if has_class else None
        self.pos_embed = nn.Parameter(torch.zeros(1, rows * columns + has_class, d))
        self.temporal_pos_embedding = nn.Parameter(torch.zeros(1, frames, d))
        order = scan_orders.time_first(frames, rows, columns)
        permuted = config.order == "time_first"
        self.register_buffer("to_time_first", order[0] if permuted else None, persistent=False)
        self.register_buffer("to_space_first", scan_orders.inverse(order)[0] if permuted else None, persistent=False)
        self.norm_e = create_norm(config.norm, d, config.norm_eps) if config.embedding_norm else None
        blocks = bidirectional_blocks(config)
        self.directions = blocks[0].directions
        self.layers = nn.ModuleList(blocks)
        self.norm_f = create_norm(config.norm, d, config.norm_eps)
        self.head = nn.Linear(d, config.num_classes) if config.num_classes else nn.Identity()
        initialise_patches(self.patch_embed.proj)
        initialise_tokens(self.cls_token, self.pos_embed)
        initialise_linears(self.head)
        initialise_blocks(blocks)

    def forward_features(self, images: Tensor, taps: Taps | None = None) -> Tensor:
        """Return the feature under the head, ``(batch, d_model)``: the class token, or the mean over the tokens.

        ``taps`` receives every block's output, and each direction's if it wants them, frame by frame whatever the
        order of the scan, without the class token.
        """
        first = 0 if self.cls_token is None else 1
        places = self.pos_embed[:, first:]
        x = self.patch_embed(images) + places.unsqueeze(1) + self.temporal_pos_embedding.unsqueeze(2)
        x = x.flatten(1, 2)
        if self.to_time_first is not None:
            x = x[:, self.to_time_first]
        if self.cls_token is not None:
            x = torch.cat([(self.cls_token + self.pos_embed[:, :1]).expand(x.shape[0], -1, -1), x], dim=1)
        if self.norm_e is not None:
            x = self.norm_e(x)
        for i, layer in enumerate(self.layers):
            x = run_block(layer, x, i, taps, self._visual)
        x = x.to(self.norm_f.weight.dtype)
        return self.norm_f(x).mean(1) if self.cls_token is None else self.norm_f(x[:, 0])

    def _visual(self, x: Tensor) -> Tensor:
        if self.cls_token is not None:
            x = x[:, 1:]
        return x if self.to_space_first is None else x[:, self.to_space_first]


class TubeletEmbed(nn.Module):
    """Cut a video into patches of a few frames and project each to a token: one strided convolution, ``proj``.

    ``(batch, in_channels, frames, H, W)`` becomes ``(batch, t, h * w, d_model)``, with ``(t, h, w) = grid``.
    """

    def __init__(self, config: VideoMambaConfig):
        super().__init__()
        side = config.image_size // config.patch_size
        self.grid = (config.num_frames // config.tubelet_size, side, side)
        self.expected = (config.in_channels, config.num_frames, config.image_size, config.image_size)
        size = (config.tubelet_size, config.patch_size, config.patch_size)
        self.proj = nn.Conv3d(config.in_channels, config.d_model, size, stride=size)

    def forward(self, images: Tensor) -> Tensor:
        if images.dim() != 5 or tuple(images.shape[1:]) != self.expected:
            raise ValueError(
                f"images must have shape (batch, {', '.join(map(str, self.expected))}), got {tuple(images.shape)}"
            )
        return self.proj(images).flatten(3).permute(0, 2, 3, 1)


register_model("videomamba_tiny", VideoMamba, VideoMambaConfig())
register_model("videomamba_small", VideoMamba, VideoMambaConfig(d_model=384))
register_model("videomamba_middle", VideoMamba, VideoMambaConfig(d_model=576, depth=32))

# With an MLP a block holds what a ViT's block holds, so depth and widths are DeiT's.
_WITH_MLP = VideoMambaConfig(depth=12, mlp_ratio=4.0, norm="layer", norm_eps=1e-6, if_divide_out=True)
register_model("transmamba_videomamba_tiny", VideoMamba, _WITH_MLP)
register_model("transmamba_videomamba_small", VideoMamba, dataclasses.replace(_WITH_MLP, d_model=384))
register_model("transmamba_videomamba_base", VideoMamba, dataclasses.replace(_WITH_MLP, d_model=768))
# For 4 frames of 8 x 8.
_MICRO = dataclasses.replace(
    _WITH_MLP,
    image_size=8,
    patch_size=2,
    in_channels=1,
    num_frames=4,
    num_classes=10,
    d_model=64,
    depth=4,
    mlp_ratio=2.0,
)
register_model("transmamba_videomamba_micro", VideoMamba, _MICRO)
