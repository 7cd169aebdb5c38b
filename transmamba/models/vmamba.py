"""VMamba, a vision Mamba of four stages with cross-scans, as published and in a ViT's widths.

Liu et al., "VMamba: Visual State Space Model" (https://arxiv.org/abs/2401.10166), the second version of the authors'
code. State-dict names are those of the published checkpoints.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor, nn

from transmamba.layers import SS2D, TransMambaBlock
from transmamba.layers.checks import int_from_zero, positive_int, ratio_of_mlp
from transmamba.models.initialisation import initialise_linears
from transmamba.models.registry import register_model
from transmamba.models.student import Student, run_block

if TYPE_CHECKING:
    from transmamba.distill.taps import Taps

# Strides of the stem's two convolutions for each size of a patch; 4 is published.
_STRIDES = {4: (2, 2), 2: (2, 1), 1: (1, 1)}


@dataclasses.dataclass(frozen=True)
class VMambaConfig:
    """Shape of a VMamba. The defaults are the published VMamba-T (``s1l8``) at 224 x 224.

    Attributes:
        image_size, patch_size, in_channels: Of the square images; a patch of 4 (published), 2 or 1 is a token of the
            first stage. Each further stage halves the grid.
        num_classes: Outputs of the head; 0 leaves the features as they are.
        dims, depths: Width and number of blocks of each stage.
        d_state, conv_size, expand: Of the mixers.
        mlp_ratio: Hidden units of each MLP over its stage's width; 0 for no MLP.
        norm_eps: Of all norms.
    """

    image_size: int = 224
    patch_size: int = 4
    in_channels: int = 3
    num_classes: int = 1000
    dims: tuple[int, ...] = (96, 192, 384, 768)
    depths: tuple[int, ...] = (2, 2, 8, 2)
    d_state: int = 1
    conv_size: int = 3
    expand: float = 1.0
    mlp_ratio: float = 4.0
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        for name in ("dims", "depths"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # lists when read from JSON
            positive_int(**{f"{name} (stage {i})": n for i, n in enumerate(getattr(self, name))})
        if not self.dims or len(self.dims) != len(self.depths):
            raise ValueError(f"dims and depths must have one entry per stage, got {self.dims} and {self.depths}")
        positive_int(image_size=self.image_size, in_channels=self.in_channels)
        if self.dims[0] % 2:
            raise ValueError(f"dims must begin with an even width, got {self.dims[0]}")
        if self.patch_size not in _STRIDES:
            raise ValueError(f"patch_size must be 4, 2 or 1, got {self.patch_size!r}")
        int_from_zero(num_classes=self.num_classes)
        ratio_of_mlp(self.mlp_ratio)

    @property
    def d_model(self) -> int:
        """Width of the last stage."""
        return self.dims[-1]

    @property
    def depth(self) -> int:
        """Blocks of all stages."""
        return sum(self.depths)

    @property
    def d_hidden(self) -> int:
        """Hidden units of the last stage's MLPs."""
        return self.hidden(self.d_model)

    def hidden(self, width: int) -> int:
        """Hidden units of an MLP in a stage of that width."""
        return int(self.mlp_ratio * width)


class VMamba(Student):
    """Stem, stages with a halved grid between them, norm, mean, head: ``(batch, in_channels, H, W)`` to logits."""

    outside: ClassVar[dict[str, str]] = {
        "classifier.norm.weight": "final_norm_weight",
        "classifier.norm.bias": "final_norm_bias",
        "classifier.head.weight": "head_weight",
        "classifier.head.bias": "head_bias",
    }

    def __init__(self, config: VMambaConfig):
        super().__init__()
        self.config = config
        self.name = "vmamba_tiny"
        self.directions = SS2D.directions
        dims = config.dims
        first, second = _STRIDES[config.patch_size]
        middle = _halved((config.image_size,) * 2, first)
        self.grid = _halved(middle, second)
        self.patch_embed = nn.Sequential(
            _halving(config.in_channels, dims[0] // 2, first),
            ToTokens(),
            nn.LayerNorm(dims[0] // 2, config.norm_eps),
            ToImage(middle),
            nn.GELU(),
            _halving(dims[0] // 2, dims[0], second),
            ToTokens(),
            nn.LayerNorm(dims[0], config.norm_eps),
        )
        self.layers = nn.ModuleList()
        self.stage_grids: list[tuple[int, int]] = []
        grid = self.grid
        for i, (width, depth) in enumerate(zip(dims, config.depths, strict=True)):
            self.stage_grids.append(grid)
            blocks = nn.Sequential(*(_block(config, width, grid) for _ in range(depth)))
            downsample: nn.Module = nn.Identity()
            if i + 1 < len(dims):
                norm = nn.LayerNorm(dims[i + 1], config.norm_eps)
                downsample = nn.Sequential(ToImage(grid), _halving(width, dims[i + 1]), ToTokens(), norm)
            self.layers.append(nn.Sequential(OrderedDict(blocks=blocks, downsample=downsample)))
            grid = _halved(grid)
        head = nn.Linear(config.d_model, config.num_classes) if config.num_classes else nn.Identity()
        norm = nn.LayerNorm(config.d_model, config.norm_eps)
        self.classifier = nn.Sequential(OrderedDict(norm=norm, head=head))
        self.layer_names = [f"layers.{i}.blocks.{j}" for i, depth in enumerate(config.depths) for j in range(depth)]
        initialise_linears(self)

    @property
    def head(self) -> nn.Module:  # type: ignore[override]
        """The classifier on the mean of the tokens."""
        return self.classifier.get_submodule("head")

    @property
    def widths(self) -> list[int]:
        """Channels of each layer's output, those of its stage."""
        return [d for d, depth in zip(self.config.dims, self.config.depths, strict=True) for _ in range(depth)]

    @property
    def hidden_widths(self) -> list[int]:
        """Hidden units of each layer's MLP."""
        return [self.config.hidden(d) for d in self.widths]

    @property
    def grids(self) -> list[tuple[int, ...] | None]:
        """Grid of each layer's output, that of its stage."""
        return [grid for grid, depth in zip(self.stage_grids, self.config.depths, strict=True) for _ in range(depth)]

    def forward_features(self, images: Tensor, taps: Taps | None = None) -> Tensor:
        """Return the feature under the head, ``(batch, d_model)``: the mean over the last stage's tokens.

        ``taps`` receives every block's output, and each direction's if it wants them, on the grid of its stage.
        """
        config = self.config
        expected = (config.in_channels, config.image_size, config.image_size)
        if images.dim() != 4 or tuple(images.shape[1:]) != expected:
            raise ValueError(
                f"images must have shape (batch, {', '.join(map(str, expected))}), got {tuple(images.shape)}"
            )
        x, layer = self.patch_embed(images), 0
        for stage in self.layers:
            for block in stage.blocks:  # type: ignore[union-attr]
                x = run_block(block, x, layer, taps)
                layer += 1
            x = stage.get_submodule("downsample")(x.to(images.dtype))
        return self.classifier.get_submodule("norm")(x).mean(1)


class ToImage(nn.Module):
    """Tokens ``(batch, rows * columns, d)`` to ``(batch, d, rows, columns)``."""

    def __init__(self, grid: tuple[int, int]):
        super().__init__()
        self.grid = grid

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens.transpose(1, 2).unflatten(2, self.grid)


class ToTokens(nn.Module):
    """``(batch, d, rows, columns)`` to tokens ``(batch, rows * columns, d)``."""

    def forward(self, image: Tensor) -> Tensor:
        return image.flatten(2).transpose(1, 2)


def _block(config: VMambaConfig, width: int, grid: tuple[int, int]) -> TransMambaBlock:
    mixer = SS2D(width, grid, config.d_state, config.conv_size, config.expand)
    return TransMambaBlock(mixer, config.hidden(width), norm_eps=config.norm_eps, mixer_name="op")


def _halving(channels: int, out_channels: int, stride: int = 2) -> nn.Conv2d:
    return nn.Conv2d(channels, out_channels, 3, stride=stride, padding=1)


def _halved(grid: tuple[int, ...], stride: int = 2) -> tuple[int, int]:
    return (grid[0] - 1) // stride + 1, (grid[1] - 1) // stride + 1


register_model("vmamba_tiny", VMamba, VMambaConfig())
register_model("vmamba_tiny_s2l5", VMamba, VMambaConfig(depths=(2, 2, 5, 2), expand=2.0))
register_model("vmamba_small", VMamba, VMambaConfig(depths=(2, 2, 15, 2), expand=2.0))
register_model("vmamba_base", VMamba, VMambaConfig(dims=(128, 256, 512, 1024), depths=(2, 2, 15, 2), expand=2.0))

# VMamba has MLPs. Here its longest stage, on the grid of a ViT with patches of 16, has the widths of DeiT.
_AS_VIT = VMambaConfig(norm_eps=1e-6)
register_model("transmamba_vmamba_tiny", VMamba, dataclasses.replace(_AS_VIT, dims=(48, 96, 192, 384)))
register_model("transmamba_vmamba_small", VMamba, _AS_VIT)
register_model("transmamba_vmamba_base", VMamba, dataclasses.replace(_AS_VIT, dims=(192, 384, 768, 1536)))
# For 8 x 8 digits: two stages, 4 x 4 and 2 x 2 tokens.
_MICRO = dataclasses.replace(
    _AS_VIT, image_size=8, patch_size=2, in_channels=1, num_classes=10, dims=(32, 64), depths=(2, 2), mlp_ratio=2.0
)
register_model("transmamba_vmamba_micro", VMamba, _MICRO)
