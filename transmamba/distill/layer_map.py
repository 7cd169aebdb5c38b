"""Which teacher layer stands behind which student layer."""

from __future__ import annotations

import math
from collections.abc import Sequence


def layer_map(kind: str | Sequence[int], student_depth: int, teacher_depth: int) -> list[int]:
    r"""Return :math:`\tau`, one teacher layer per student layer.

    * ``"uniform"``: :math:`\tau(i) = \mathrm{round}((i + 1) L_T / L_S) - 1`, which ends at the teacher's last layer.
    * ``"block"``: :math:`\tau(i) = \lfloor i L_T / L_S \rfloor`, which starts at its first.
    * ``"last"``: always the teacher's last layer.
    * a list: one teacher layer per student layer, from 0.

    Raises:
        ValueError: Unknown kind, or a list of the wrong length or range.
        TypeError: Neither text nor a list of ints.
    """
    if isinstance(kind, str):
        if kind == "uniform":
            # floor(x + 1/2): Python's round() takes halves to even numbers, which would repeat layers.
            ends = [math.floor((i + 1) * teacher_depth / student_depth + 0.5) - 1 for i in range(student_depth)]
            return [max(end, 0) for end in ends]
        if kind == "block":
            return [i * teacher_depth // student_depth for i in range(student_depth)]
        if kind == "last":
            return [teacher_depth - 1] * student_depth
        raise ValueError(f"layer_map must be 'uniform', 'block', 'last' or a list of teacher layers, got {kind!r}")
    layers = list(kind)
    if any(isinstance(layer, bool) or not isinstance(layer, int) for layer in layers):
        raise TypeError(f"layer_map must list teacher layers as ints, got {layers}")
    if len(layers) != student_depth:
        raise ValueError(f"layer_map must have one entry for each of {student_depth} student layers, got {len(layers)}")
    if any(not 0 <= layer < teacher_depth for layer in layers):
        raise ValueError(f"layer_map entries must be from 0 to {teacher_depth - 1}, got {layers}")
    return layers
