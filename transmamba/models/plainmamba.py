"""PlainMamba, a vision Mamba of one width that scans along four snakes, as published and with a Transformer's MLPs.

Yang et al., "PlainMamba: Improving Non-Hierarchical Mamba in Visual Recognition" (https://arxiv.org/abs/2403.17695).
State-dict names are those of the published checkpoints.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from transmamba.layers import PatchEmbed, PlainMamba2D, TransMambaBlock, create_norm
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

_STEM_WIDTH = 64


@dataclasses.dataclass(frozen=True)
class PlainMambaConfig:
    """Shape of a PlainMamba. The defaults are the published PlainMamba-L1 at 224 x 224.

    Attributes:
        image_size, patch_size, in_channels: Of the square images; the patch size is even and divides the image size.
        num_classes: Outputs of the head; 0 leaves the features as they are.
        d_model, depth: Width of the tokens and number of blocks.
        d_state, conv_size, expand: Of the mixers.
        stem: ``"conv"`` (published): convolutions at half the size before the patches are cut, ``stem_convs`` of them
            behind the first; or ``"patch"``, a ViT's patch embedding, whose weights can be cloned.
        dwconv_layers: Blocks with a 3 x 3 depthwise convolution, batch norm and GELU behind them.
        mlp_ratio: Hidden units of the MLP over ``d_model``; 0 for no MLP, as published.
        norm, norm_eps, final_norm_eps: ``"layer"`` (published) or ``"rms"``.
        permute_params, double_dt_bias: Of :class:`transmamba.layers.PlainMamba2D`; the defaults fit published weights.
    """

    image_size: int = 224
    patch_size: int = 16
    in_channels: int = 3
    num_classes: int = 1000
    d_model: int = 192
    depth: int = 24
    d_state: int = 16
    conv_size: int = 7
    expand: int = 2
    stem: str = "conv"
    stem_convs: int = 1
    dwconv_layers: tuple[int, ...] = (0,)
    mlp_ratio: float = 0.0
    norm: str = "layer"
    norm_eps: float = 1e-5
    final_norm_eps: float = 1e-6
    permute_params: bool = False
    double_dt_bias: bool = True

    def __post_init__(self) -> None:
        positive_int(depth=self.depth, image_size=self.image_size, patch_size=self.patch_size, d_model=self.d_model)
        int_from_zero(num_classes=self.num_classes, stem_convs=self.stem_convs)
        if self.patch_size % 2 or self.image_size % self.patch_size:
            raise ValueError(
                f"patch_size must be even and divide image_size ({self.image_size}), got {self.patch_size}"
            )
        if self.stem not in ("conv", "patch"):
            raise ValueError(f"stem must be 'conv' or 'patch', got {self.stem!r}")
        ratio_of_mlp(self.mlp_ratio)
        if any(not 0 <= layer < self.depth for layer in self.dwconv_layers):
            raise ValueError(f"dwconv_layers must be from 0 to {self.depth - 1}, got {self.dwconv_layers}")
        object.__setattr__(self, "dwconv_layers", tuple(self.dwconv_layers))  # a list when read from JSON

    @property
    def d_hidden(self) -> int:
        """Hidden units of each MLP."""
        return round(self.mlp_ratio * self.d_model)


class PlainMamba(Student):
    """Stem, positions, blocks, norm, mean, head: ``(batch, in_channels, H, W)`` to ``(batch, num_classes)``."""

    outside: ClassVar[dict[str, str]] = {
        "backbone.pos_embed": "position",
        "backbone.patch_embed.proj.weight": "patch_weight",
        "backbone.patch_embed.proj.bias": "patch_bias",
        "backbone.ln1.weight": "final_norm_weight",
        "backbone.ln1.bias": "final_norm_bias",
        "head.fc.weight": "head_weight",
        "head.fc.bias": "head_bias",
    }

    def __init__(self, config: PlainMambaConfig):
        super().__init__()
        self.config = config
        self.name = "plainmamba_l1"
        self.directions = PlainMamba2D.directions
        self.layer_names = [f"backbone.layers.{i}" for i in range(config.depth)]
        self.backbone = _Backbone(config)
        self.grid = self.backbone.grid
        self.head = nn.Sequential()
        if config.num_classes:
            self.head.add_module("fc", nn.Linear(config.d_model, config.num_classes))
        initialise_linears(self.head)

    def forward_features(self, images: Tensor, taps: Taps | None = None) -> Tensor:
        """Return the feature under the head, ``(batch, d_model)``: the mean over the tokens.

        ``taps`` receives every block's output, and each direction's if it wants them.
        """
        return self.backbone(images, taps).mean(1)


class _Backbone(nn.Module):
    """Everything but the head, as the published checkpoints have it."""

    def __init__(self, config: PlainMambaConfig):
        super().__init__()
        d = config.d_model
        self.patch_embed: ConvPatchEmbed | PatchEmbed
        if config.stem == "conv":
            self.patch_embed = ConvPatchEmbed(
                config.image_size, config.patch_size, config.in_channels, d, config.stem_convs
            )
            initialise_patches(self.patch_embed.projection)
        else:
            self.patch_embed = PatchEmbed(config.image_size, config.patch_size, config.in_channels, d)
            initialise_patches(self.patch_embed.proj)
        self.grid = self.patch_embed.grid
        self.pos_embed = nn.Parameter(torch.zeros(1, self.grid[0] * self.grid[1], d))
        initialise_tokens(self.pos_embed)
        blocks = [PlainMambaBlock(config, self.grid, i in config.dwconv_layers) for i in range(config.depth)]
        initialise_blocks(blocks)
        self.layers = nn.ModuleList(blocks)
        self.ln1 = create_norm(config.norm, d, config.final_norm_eps)

    def forward(self, images: Tensor, taps: Taps | None) -> Tensor:
        x = self.patch_embed(images) + self.pos_embed
        for i, layer in enumerate(self.layers):
            x = run_block(layer, x, i, taps)
        return self.ln1(x.to(self.ln1.weight.dtype))


class PlainMambaBlock(TransMambaBlock):
    """A block whose mixer is called ``mamba``, with the convolution ``dw`` behind it if ``with_dwconv``."""

    def __init__(self, config: PlainMambaConfig, grid: tuple[int, int], with_dwconv: bool):
        mixer = PlainMamba2D(
            config.d_model,
            grid,
            config.d_state,
            config.conv_size,
            config.expand,
            permute_params=config.permute_params,
            double_dt_bias=config.double_dt_bias,
        )
        super().__init__(mixer, config.d_hidden, config.norm, config.norm_eps, mixer_name="mamba")
        d, self.grid = config.d_model, grid
        conv = nn.Conv2d(d, d, 3, padding=1, groups=d, bias=False) if with_dwconv else None
        self.dw = None if conv is None else nn.Sequential(conv, nn.BatchNorm2d(d), nn.GELU())

    def forward(
        self, x: Tensor, return_directions: bool = False, **options: Any
    ) -> Tensor | tuple[Tensor, list[Tensor]]:
        result = super().forward(x, return_directions, **options)
        if self.dw is None:
            return result
        h, features = result if isinstance(result, tuple) else (result, [])
        image = h.to(self.norm.weight.dtype).transpose(1, 2).unflatten(2, self.grid)
        out = self.dw(image).flatten(2).transpose(1, 2).to(h.dtype)
        # What lies behind the mixer is not linear; a direction is told by how far it is from the mean before.
        return (out, [out + (f - h) for f in features]) if return_directions else out


class ConvPatchEmbed(nn.Module):
    """Convolutions at half the image's size, ``stem`` and ``convs``, and patches cut from their output, ``projection``.

    ``(batch, in_channels, image_size, image_size)`` becomes ``(batch, h * w, d_model)`` in raster order, with
    ``(h, w) = grid``.
    """

    def __init__(self, image_size: int, patch_size: int, in_channels: int, d_model: int, n_convs: int):
        super().__init__()
        self.expected = (in_channels, image_size, image_size)
        self.grid = (image_size // patch_size, image_size // patch_size)
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, _STEM_WIDTH, 7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(_STEM_WIDTH),
            nn.ReLU(),
        )
        convs: list[nn.Module] = []
        for _ in range(n_convs):
            conv = nn.Conv2d(_STEM_WIDTH, _STEM_WIDTH, 3, padding=1, bias=False)
            convs += [conv, nn.BatchNorm2d(_STEM_WIDTH), nn.ReLU()]
        self.convs = nn.Sequential(*convs)
        self.projection = nn.Conv2d(_STEM_WIDTH, d_model, patch_size // 2, stride=patch_size // 2)

    def forward(self, images: Tensor) -> Tensor:
        if images.dim() != 4 or tuple(images.shape[1:]) != self.expected:
            raise ValueError(
                f"images must have shape (batch, {', '.join(map(str, self.expected))}), got {tuple(images.shape)}"
            )
        return self.projection(self.convs(self.stem(images))).flatten(2).transpose(1, 2)


register_model("plainmamba_l1", PlainMamba, PlainMambaConfig())
register_model("plainmamba_l2", PlainMamba, PlainMambaConfig(d_model=384, stem_convs=2, dwconv_layers=()))
register_model("plainmamba_l3", PlainMamba, PlainMambaConfig(d_model=448, depth=36, stem_convs=2, dwconv_layers=()))

# With an MLP a block holds what a ViT's block holds, so depth, widths and patches are DeiT's.
_WITH_MLP = PlainMambaConfig(
    depth=12,
    stem="patch",
    dwconv_layers=(),
    mlp_ratio=4.0,
    norm_eps=1e-6,
    permute_params=True,
    double_dt_bias=False,
)
register_model("transmamba_plainmamba_tiny", PlainMamba, _WITH_MLP)
register_model("transmamba_plainmamba_small", PlainMamba, dataclasses.replace(_WITH_MLP, d_model=384))
register_model("transmamba_plainmamba_base", PlainMamba, dataclasses.replace(_WITH_MLP, d_model=768))
# For 8 x 8 digits.
_MICRO = dataclasses.replace(
    _WITH_MLP,
    image_size=8,
    patch_size=2,
    in_channels=1,
    num_classes=10,
    d_model=64,
    depth=4,
    conv_size=3,
    mlp_ratio=2.0,
)
register_model("transmamba_plainmamba_micro", PlainMamba, _MICRO)
