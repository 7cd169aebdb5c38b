"""A LLaVA taken apart: vision tower, projector, and the language model that sees the image among its tokens."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import nn

from transmamba.teachers.spec import find
from transmamba.teachers.teacher import Teacher, create_teacher


@dataclasses.dataclass(frozen=True)
class LlavaTeacher:
    """A LLaVA's parts, each as its student sees it.

    Attributes:
        language: The whole model, watched at the layers of its language model; it takes token ids, or a mapping with
            ``input_ids`` and ``pixel_values``.
        vision: The vision tower.
        projector: Module with the linear maps ``linear_1`` and ``linear_2``.
        image_token_id: Id that stands for one token of an image.
        vision_layers: Layers of the vision tower whose outcome the projector sees; those behind are not used.
    """

    language: Teacher
    vision: Teacher
    projector: Any
    image_token_id: int
    vision_layers: int


def create_llava_teacher(source: Any) -> LlavaTeacher:
    """Take a LLaVA apart: a ``LlavaForConditionalGeneration``, its config (random weights), a folder or hub name.

    Raises:
        ValueError: The model is no LLaVA, or it hands more to its projector than the patches of one layer.
        TypeError, FileNotFoundError, ImportError: As :func:`create_teacher`.
    """
    language = create_teacher(source)
    model = language.model
    parts = {}
    for name in ("vision_tower", "multi_modal_projector"):
        found = find(model, f"model.{name}") or find(model, name)
        if not isinstance(found, nn.Module):
            raise ValueError(f"{type(model).__name__} is no LLaVA: it has no {name}")
        parts[name] = found
    config: Any = model.config
    vision, layer = Teacher(parts["vision_tower"]), config.vision_feature_layer
    if not isinstance(layer, int):
        raise ValueError(f"vision_feature_layer must be one layer, got {layer}")
    strategy = config.vision_feature_select_strategy
    if strategy != ("default" if vision.spec.special_tokens else "full"):
        raise ValueError(
            f"vision_feature_select_strategy {strategy!r} of {vision.spec.name} does not give the patches alone"
        )
    # Layer 0 of the hidden states is what goes into the first block.
    used = layer if layer >= 0 else vision.depth + 1 + layer
    return LlavaTeacher(language, vision, parts["multi_modal_projector"], config.image_token_id, used)
