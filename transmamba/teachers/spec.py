"""Where a family of Transformers keeps its parts."""

from __future__ import annotations

import dataclasses

from torch import Tensor, nn


@dataclasses.dataclass(frozen=True)
class TeacherSpec:
    """Dotted paths of a Transformer's parts; ``{i}`` stands for the layer, ``{last}`` for the last one.

    What a family does not have is left empty.

    Attributes:
        name: What the naming is called in messages.
        layers: The ``ModuleList`` of blocks; each block's output is the feature after that layer.
        query, key, value, proj: Linear maps of the attention and its output.
        fc1, fc2: Linear maps of the MLP.
        gate: Linear map of a gated MLP's gate, beside ``fc1``.
        norm1, norm2: Norm before the attention and before the MLP.
        final_norm: Norm behind the last block.
        patch: Convolution that embeds the patches.
        embedding: Embedding of tokens.
        token_type: Embedding of the types of tokens, the first of which every token is of.
        embedding_norm: Norm of the embedded tokens.
        position: Position embedding, ``(1, special + patches, d)`` or an ``Embedding``, special tokens first.
        class_token: ``(1, 1, d)`` or ``(d,)``.
        head: Classifier on the class token, or on every token of a text.
        special_tokens: Tokens in front of the patches: class, and distillation if there is one.
        inputs: Name of the model's argument, ``"pixel_values"`` or ``"input_ids"``.
    """

    name: str
    layers: str
    query: str
    key: str
    value: str
    proj: str
    fc1: str
    fc2: str
    gate: str = ""
    norm1: str = ""
    norm2: str = ""
    final_norm: str = ""
    patch: str = ""
    embedding: str = ""
    token_type: str = ""
    embedding_norm: str = ""
    position: str = ""
    class_token: str = ""
    head: str = ""
    special_tokens: int = 0
    inputs: str = "pixel_values"

    def missing(self, model: nn.Module) -> list[str]:
        """Paths of this spec that ``model`` does not have, looked up in its first layer."""
        paths = [
            getattr(self, field.name).format(i=0, last=0)
            for field in dataclasses.fields(self)
            if field.name not in ("name", "special_tokens", "inputs")
        ]
        return [path for path in paths if path and find(model, path) is None]


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


def _clip(base: str, vision: bool) -> TeacherSpec:
    layer = f"{base}encoder.layers.{{i}}"
    return TeacherSpec(
        name=f"CLIP's {'vision' if vision else 'text'} tower ({base or 'top level'})",
        layers=f"{base}encoder.layers",
        query=f"{layer}.self_attn.q_proj",
        key=f"{layer}.self_attn.k_proj",
        value=f"{layer}.self_attn.v_proj",
        proj=f"{layer}.self_attn.out_proj",
        norm1=f"{layer}.layer_norm1",
        norm2=f"{layer}.layer_norm2",
        fc1=f"{layer}.mlp.fc1",
        fc2=f"{layer}.mlp.fc2",
        embedding_norm=f"{base}pre_layrnorm" if vision else "",
        final_norm=f"{base}post_layernorm" if vision else f"{base}final_layer_norm",
        patch=f"{base}embeddings.patch_embedding" if vision else "",
        embedding="" if vision else f"{base}embeddings.token_embedding",
        position=f"{base}embeddings.position_embedding",
        class_token=f"{base}embeddings.class_embedding" if vision else "",
        special_tokens=int(vision),
        inputs="pixel_values" if vision else "input_ids",
    )


def _llama(base: str, head: str) -> TeacherSpec:
    """Also of Mistral, Qwen2 and others that keep Llama's names."""
    layer = f"{base}layers.{{i}}"
    return TeacherSpec(
        name=f"Llama ({base or 'top level'})",
        layers=f"{base}layers",
        query=f"{layer}.self_attn.q_proj",
        key=f"{layer}.self_attn.k_proj",
        value=f"{layer}.self_attn.v_proj",
        proj=f"{layer}.self_attn.o_proj",
        norm1=f"{layer}.input_layernorm",
        norm2=f"{layer}.post_attention_layernorm",
        gate=f"{layer}.mlp.gate_proj",
        fc1=f"{layer}.mlp.up_proj",
        fc2=f"{layer}.mlp.down_proj",
        final_norm=f"{base}norm",
        embedding=f"{base}embed_tokens",
        head=head,
        inputs="input_ids",
    )


def _siglip(base: str) -> TeacherSpec:
    """CLIP's vision tower without a class token and without a norm in front of the first layer."""
    name = f"SigLIP's vision tower ({base or 'top level'})"
    return dataclasses.replace(_clip(base, True), name=name, class_token="", embedding_norm="", special_tokens=0)


def _llava(base: str, head: str) -> TeacherSpec:
    """Its language model, which sees the images among its tokens; :class:`LlavaTeacher` has the other parts."""
    return dataclasses.replace(_llama(base, head), name=f"LLaVA's language model ({base})")


def _bert(base: str) -> TeacherSpec:
    """Its norms stand behind attention and MLP: the first is the one before the MLP, the last is the final one."""
    layer = f"{base}encoder.layer.{{i}}"
    return TeacherSpec(
        name=f"BERT ({base or 'top level'})",
        layers=f"{base}encoder.layer",
        query=f"{layer}.attention.self.query",
        key=f"{layer}.attention.self.key",
        value=f"{layer}.attention.self.value",
        proj=f"{layer}.attention.output.dense",
        norm2=f"{layer}.attention.output.LayerNorm",
        fc1=f"{layer}.intermediate.dense",
        fc2=f"{layer}.output.dense",
        embedding=f"{base}embeddings.word_embeddings",
        final_norm=f"{base}encoder.layer.{{last}}.output.LayerNorm",
        token_type=f"{base}embeddings.token_type_embeddings",
        embedding_norm=f"{base}embeddings.LayerNorm",
        position=f"{base}embeddings.position_embeddings",
        inputs="input_ids",
    )


# DeiTForImageClassificationWithTeacher averages two heads; the one on the class token is the one a student can use.
KNOWN = (
    *(
        naming(base, head, special)
        for base, head, special in (
            ("vit", "classifier", 1),
            ("deit", "classifier", 2),
            ("deit", "cls_classifier", 2),
        )
        for naming in (_current, _earlier)
    ),
    *(_clip(base, True) for base in ("", "vision_model.")),
    *(_siglip(base) for base in ("", "vision_model.")),
    *(_clip(base, False) for base in ("", "text_model.")),
    _llava("model.language_model.", "lm_head"),
    _llava("language_model.model.", "language_model.lm_head"),
    _llama("model.", "lm_head"),
    _llama("", ""),
    _bert("bert."),
    _bert(""),
)
