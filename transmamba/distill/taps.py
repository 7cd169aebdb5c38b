"""Where a student's features leave: explicitly, handed to ``forward_features``."""

from __future__ import annotations

from collections.abc import Container

from torch import Tensor


class Taps:
    """Collects block outputs of one forward pass; a model calls :meth:`wants` and :meth:`record`.

    Args:
        layers: Layers to record, or None for all.
        directions: Also record one feature per scan direction (see :mod:`transmamba.distill.directions`).

    Attributes:
        merged: Layer to its output, ``(batch, L, d_model)``, without class tokens.
        directions: Layer to its direction-resolved features, each ``(batch, L, d_model)``.
    """

    def __init__(self, layers: Container[int] | None = None, directions: bool = True):
        self.layers = layers
        self.wants_directions = directions
        self.merged: dict[int, Tensor] = {}
        self.directions: dict[int, list[Tensor]] = {}

    def wants(self, layer: int) -> bool:
        """Whether ``layer`` is to be recorded."""
        return self.layers is None or layer in self.layers

    def record(self, layer: int, merged: Tensor, directions: list[Tensor]) -> None:
        """Keep the features of ``layer``; called once per layer and pass.

        Raises:
            RuntimeError: The layer was recorded before: taps serve one forward pass.
        """
        if layer in self.merged:
            raise RuntimeError(f"layer {layer} is recorded already; make new Taps for each forward pass")
        self.merged[layer] = merged
        self.directions[layer] = directions
