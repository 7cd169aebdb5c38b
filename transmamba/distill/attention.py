"""The attention of a teacher's layer as plain matrices, every head with a key and a value of its own."""

from __future__ import annotations

import dataclasses

from torch import Tensor

from transmamba.teachers import Teacher


@dataclasses.dataclass(frozen=True)
class Attention:
    """Weights of one layer's attention; ``inner`` is heads times ``head_dim``.

    Attributes:
        query, key, value: ``(inner, d_model)``; keys and values that heads share are repeated.
        proj: ``(d_model, inner)``.
        value_bias, proj_bias: ``(inner,)``, ``(d_model,)``, or None. Those of queries and keys have no counterpart in a
            scan.
        head_dim: Channels of a head.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    proj: Tensor
    value_bias: Tensor | None
    proj_bias: Tensor | None
    head_dim: int


def read_attention(teacher: Teacher, layer: int) -> Attention:
    """Read the attention of ``layer``, in float64 on the CPU.

    Raises:
        ValueError: The teacher's config does not say how many heads it has.
    """
    query, key, value, proj = (teacher.part(name, layer) for name in ("query", "key", "value", "proj"))
    config = teacher.model.config
    inner, heads = query.out_features, getattr(config, "num_attention_heads", None)
    head_dim = getattr(config, "head_dim", None) or (inner // heads if heads else None)
    if not head_dim or inner % head_dim:
        raise ValueError(f"{type(teacher.model).__name__}.config must say num_attention_heads, to read its attention")

    def plain(tensor: Tensor) -> Tensor:
        return tensor.detach().double().cpu()

    def every_head(tensor: Tensor) -> Tensor:
        shared = inner // tensor.shape[0]
        return plain(tensor).unflatten(0, (-1, head_dim)).repeat_interleave(shared, 0).flatten(0, 1)

    return Attention(
        query=plain(query.weight),
        key=every_head(key.weight),
        value=every_head(value.weight),
        proj=plain(proj.weight),
        value_bias=None if value.bias is None else every_head(value.bias),
        proj_bias=None if proj.bias is None else plain(proj.bias),
        head_dim=head_dim,
    )
