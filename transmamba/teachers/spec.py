"""Where a family of Transformers keeps its parts."""

from __future__ import annotations

import dataclasses

from torch import Tensor, nn


@dataclasses.dataclass(frozen=True)
class TeacherSpec:
    """Dotted paths of a Transformer's parts; ``{i}`` stands for the layer.

    Attributes:
        name: What the naming is called in messages.
        layers: The ``ModuleList`` of blocks; each block's output is the feature after that layer.
        query, key, value, proj: Linear maps of the attention and its output.
        norm1, norm2: LayerNorm before the attention and before the MLP.
        fc1, fc2: Linear maps of the MLP.
        final_norm: LayerNorm behind the last block.
        patch: Convolution that embeds the patches.
        position: Position embedding ``(1, special + patches, d)``, special tokens first.
        class_token: ``(1, 1, d)``.
        head: Classifier on the class token.
        special_tokens: Tokens in front of the patches: class, and distillation if there is one.
    """

    name: str
    layers: str
    query: str
    key: str
    value: str
    proj: str
    norm1: str
    norm2: str
    fc1: str
    fc2: str
    final_norm: str
    patch: str
    position: str
    class_token: str
    head: str
    special_tokens: int = 1

    def missing(self, model: nn.Module) -> list[str]:
        """Paths of this spec that ``model`` does not have, looked up in its first layer."""
        paths = [
            getattr(self, field.name).format(i=0)
            for field in dataclasses.fields(self)
            if field.name not in ("name", "special_tokens")
        ]
        return [path for path in paths if find(model, path) is None]


def find(model: nn.Module, path: str) -> nn.Module | Tensor | None:
    """Follow a dotted path, or return None where it breaks off."""
    found: object = model
    for part in path.split("."):
        if isinstance(found, (nn.ModuleList, nn.Sequential)):
            found = found[int(part)] if part.isdigit() and int(part) < len(found) else None
        else:
            found = getattr(found, part, None)
        if found is None:
            return None
    return found if isinstance(found, (nn.Module, Tensor)) else None


def _embeddings(base: str) -> dict[str, str]:
    return {
        "final_norm": f"{base}.layernorm",
        "patch": f"{base}.embeddings.patch_embeddings.projection",
        "position": f"{base}.embeddings.position_embeddings",
        "class_token": f"{base}.embeddings.cls_token",
    }


def _current(base: str, head: str, special_tokens: int) -> TeacherSpec:
    """Names in transformers 5."""
    layer = f"{base}.layers.{{i}}"
    return TeacherSpec(
        name=f"{base} (transformers 5)",
        layers=f"{base}.layers",
        query=f"{layer}.attention.q_proj",
        key=f"{layer}.attention.k_proj",
        value=f"{layer}.attention.v_proj",
        proj=f"{layer}.attention.o_proj",
        norm1=f"{layer}.layernorm_before",
        norm2=f"{layer}.layernorm_after",
        fc1=f"{layer}.mlp.fc1",
        fc2=f"{layer}.mlp.fc2",
        head=head,
        special_tokens=special_tokens,
        **_embeddings(base),
    )


def _earlier(base: str, head: str, special_tokens: int) -> TeacherSpec:
    """Names in transformers 4."""
    layer = f"{base}.encoder.layer.{{i}}"
    return TeacherSpec(
        name=f"{base} (transformers 4)",
        layers=f"{base}.encoder.layer",
        query=f"{layer}.attention.attention.query",
        key=f"{layer}.attention.attention.key",
        value=f"{layer}.attention.attention.value",
        proj=f"{layer}.attention.output.dense",
        norm1=f"{layer}.layernorm_before",
        norm2=f"{layer}.layernorm_after",
        fc1=f"{layer}.intermediate.dense",
        fc2=f"{layer}.output.dense",
        head=head,
        special_tokens=special_tokens,
        **_embeddings(base),
    )


# DeiTForImageClassificationWithTeacher averages two heads; the one on the class token is the one a student can use.
KNOWN = tuple(
    naming(base, head, special)
    for base, head, special in (
        ("vit", "classifier", 1),
        ("deit", "classifier", 2),
        ("deit", "cls_classifier", 2),
    )
    for naming in (_current, _earlier)
)
