"""What a student's tensors are, in words that a Transformer shares, so that weights can be carried over."""

from __future__ import annotations

from typing import NamedTuple

# Order of dimensions: norms (d,), position (1, tokens, d), class_token (1, 1, d), patch_weight (d, channels, p, p),
# embedding (vocabulary, d), token_type (types, d), gate_weight and fc1_weight (hidden, d), fc2_weight (d, hidden),
# head_weight (classes, d). The mixer's parts have no counterpart outside SSMs; "stem" is everything else that a
# Transformer does not have, convolutions for example.
PARTS = (
    "patch_weight",
    "patch_bias",
    "embedding",
    "position",
    "token_type",
    "embedding_norm_weight",
    "embedding_norm_bias",
    "class_token",
    "norm1_weight",
    "norm1_bias",
    "norm2_weight",
    "norm2_bias",
    "gate_weight",
    "fc1_weight",
    "fc1_bias",
    "fc2_weight",
    "fc2_bias",
    "final_norm_weight",
    "final_norm_bias",
    "head_weight",
    "head_bias",
    "mixer",
    "mixer_out_weight",
    "mixer_out_bias",
    "stem",
)


class Role(NamedTuple):
    """Role of one tensor: a part of :data:`PARTS`, and the layer it belongs to, or None outside the layers."""

    part: str
    layer: int | None = None

    @property
    def is_fresh(self) -> bool:
        """Whether no Transformer has this: part of a mixer or of a stem."""
        return self.part.startswith(("mixer", "stem"))
