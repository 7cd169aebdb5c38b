"""What every student offers to the distillation: its layers with their widths and grids, taps, roles."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, cast

from torch import Tensor, nn

from transmamba.models.roles import Role

if TYPE_CHECKING:
    from transmamba.distill.taps import Taps


class Student(nn.Module):
    """A model that can be distilled into; a subclass sets the attributes and writes ``forward_features``.

    Attributes:
        config: A dataclass with ``d_model`` (of the feature under the head), ``depth``, ``d_hidden`` and
            ``num_classes``.
        name: What :func:`transmamba.models.create_model` calls it.
        directions: Names of the scan directions, in the order in which taps record them.
        grid: Rows and columns of the tokens, ``(frames, rows, columns)`` of a video, or None for a sequence.
        class_position: Where the class token stands among the tokens, or None without one.
        layer_names: Module paths of the blocks, in the order they run.
        head: Maps the result of ``forward_features`` to logits.
        outside: Parts, of :data:`transmamba.models.roles.PARTS`, of the parameters outside the blocks.
    """

    config: Any
    name: str
    directions: tuple[str, ...]
    grid: tuple[int, ...] | None
    class_position: int | None = None
    layer_names: list[str]
    outside: ClassVar[dict[str, str]] = {}
    head: nn.Module

    @property
    def widths(self) -> list[int]:
        """Channels of each layer's output."""
        return [self.config.d_model] * self.config.depth

    @property
    def hidden_widths(self) -> list[int]:
        """Hidden units of each layer's MLP, 0 where there is none."""
        return [self.config.d_hidden] * self.config.depth

    @property
    def grids(self) -> list[tuple[int, ...] | None]:
        """Grid of each layer's output."""
        return [self.grid] * self.config.depth

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits ``(batch, num_classes)``."""
        return self.head(self.forward_features(images))

    def forward_features(self, images: Tensor, taps: Taps | None = None) -> Tensor:
        """Return the feature under the head; ``taps`` receives every block's output in canonical token order."""
        raise NotImplementedError

    def forward_tokens(self, images: Tensor) -> Tensor:
        """Return the last block's output in canonical order, ``(batch, tokens, width)``, without a class token."""
        last = _LastLayer(len(self.layer_names) - 1)
        self.forward_features(images, cast("Taps", last))
        return last.output

    def clone_roles(self) -> dict[str, Role]:
        """Role of every parameter, for :func:`transmamba.distill.subclone`."""
        inside = {}
        for i, path in enumerate(self.layer_names):
            block = self.get_submodule(path)
            mixer = f"{getattr(block, 'mixer_name', 'mixer')}."
            for name, _ in block.named_parameters():
                inside[f"{path}.{name}"] = Role(_part(name, mixer), i)
        return {
            name: inside[name] if name in inside else Role(self.outside.get(name, "stem"))
            for name, _ in self.named_parameters()
        }


def run_block(
    block: nn.Module,
    x: Tensor,
    layer: int,
    taps: Taps | None,
    visible: Callable[[Tensor], Tensor] = lambda x: x,
    **options: Any,
) -> Tensor:
    """Return ``block(x)`` and let ``taps`` record what it asks for, each feature as ``visible`` shows it.

    ``options`` are handed to the block's mixer.
    """
    if taps is None or not taps.wants(layer):
        return block(x, **options)
    if not taps.wants_directions:
        x = block(x, **options)
        taps.record(layer, visible(x), [])
        return x
    x, directions = block(x, return_directions=True, **options)
    taps.record(layer, visible(x), [visible(f) for f in directions])
    return x


class _LastLayer:
    """Taps that keep the output of one layer."""

    wants_directions = False
    output: Tensor

    def __init__(self, layer: int):
        self.layer = layer

    def wants(self, layer: int) -> bool:
        return layer == self.layer

    def record(self, _layer: int, merged: Tensor, _directions: list[Tensor]) -> None:
        self.output = merged


_IN_BLOCK = {
    "norm.weight": "norm1_weight",
    "norm.bias": "norm1_bias",
    "norm2.weight": "norm2_weight",
    "norm2.bias": "norm2_bias",
    "mlp.gate.weight": "gate_weight",
    "mlp.fc1.weight": "fc1_weight",
    "mlp.fc1.bias": "fc1_bias",
    "mlp.fc2.weight": "fc2_weight",
    "mlp.fc2.bias": "fc2_bias",
}


def _part(name: str, mixer: str) -> str:
    if name.startswith(f"{mixer}out_proj."):
        return f"mixer_out_{name.rpartition('.')[2]}"
    return _IN_BLOCK.get(name, "mixer" if name.startswith(mixer) else "stem")
