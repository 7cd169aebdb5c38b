r"""Direction-resolved features: what each scan direction alone contributes to a layer's output.

A mixer sums its directions before one linear projection, so a layer with K directions gives

.. math:: F_k = X + W_{out}(K\,y_k \odot \mathrm{silu}(z)) + R, \qquad \frac{1}{K} \sum_k F_k = \text{layer output},

with :math:`R` what the layer adds behind the mixer (its MLP). All are in canonical token order: a cosine per token is
the same when both sequences are reversed, so no flip is needed to compare a backward scan with the teacher.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from transmamba.distill.taps import Taps

DIRECTIONS = ("both", "forward", "merged")


def direction_names(kind: str, names: Sequence[str]) -> list[str]:
    """Names of the features that :func:`direction_features` returns, for a student whose directions are ``names``.

    ``"both"`` is all of them, ``"forward"`` the first, ``"merged"`` the layer's output taken as one direction.

    Raises:
        ValueError: Another kind.
    """
    if kind not in DIRECTIONS:
        raise ValueError(f"directions must be one of {', '.join(DIRECTIONS)}, got {kind!r}")
    return ["merged"] if kind == "merged" else list(names if kind == "both" else names[:1])


def direction_features(taps: Taps, layer: int, kind: str) -> list[Tensor]:
    """Features of one layer, each ``(batch, L, d_model)``, in the order of :func:`direction_names`."""
    if kind == "merged":
        return [taps.merged[layer]]
    return taps.directions[layer] if kind == "both" else taps.directions[layer][:1]


def merged_from_directions(features: Sequence[Tensor]) -> Tensor:
    """The layer's output: the mean over its directions."""
    return torch.stack(list(features)).mean(0)
