"""A Mamba vision tower, LLaVA's projector and a Mamba language model that reads the image among its tokens.

After Liu et al., "Visual Instruction Tuning" (https://arxiv.org/abs/2304.08485). The projector is that of LLaVA-1.5
(https://arxiv.org/abs/2310.03744), under the names of ``transformers``.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from transmamba.models.language import InferenceParams, MambaLM, MambaLMConfig
from transmamba.models.registry import create_model, model_config, register_model
from transmamba.models.student import Student

if TYPE_CHECKING:
    from transmamba.distill.taps import Taps


@dataclasses.dataclass(frozen=True)
class MambaVLMConfig:
    """What a vision-language model is made of.

    Attributes:
        vision, vision_options: Name of the vision tower, a student for images, and fields of its config.
        language, language_options: The same of the language model.
        image_token_id: Id that image tokens have in ``input_ids``; None for the first behind the vocabulary.
    """

    vision: str = "transmamba_vim_base"
    vision_options: dict[str, Any] = dataclasses.field(default_factory=dict)
    language: str = "transmamba_lm_tiny"
    language_options: dict[str, Any] = dataclasses.field(default_factory=dict)
    image_token_id: int | None = None

    def __post_init__(self) -> None:
        if not hasattr(model_config(self.vision, **self.vision_options), "image_size"):
            raise ValueError(f"vision must be a student for images such as 'transmamba_vim_base', got {self.vision!r}")
        if not isinstance(self._language, MambaLMConfig):
            raise ValueError(f"language must be a language model such as 'transmamba_lm_tiny', got {self.language!r}")

    @property
    def _language(self) -> Any:
        return model_config(self.language, **self.language_options)

    @property
    def d_model(self) -> int:
        """Width of the language model."""
        return self._language.d_model

    @property
    def depth(self) -> int:
        """Blocks of the language model."""
        return self._language.depth

    @property
    def d_hidden(self) -> int:
        """Hidden units of the language model's MLPs."""
        return self._language.d_hidden

    @property
    def num_classes(self) -> int:
        """Rows of the embedding, which is what the logits are over."""
        return self._language.num_classes


class Projector(nn.Module):
    """``linear_2(gelu(linear_1(x)))``: image tokens ``(..., d_vision)`` to the language model's width."""

    def __init__(self, d_vision: int, d_model: int):
        super().__init__()
        self.linear_1 = nn.Linear(d_vision, d_model)
        self.linear_2 = nn.Linear(d_model, d_model)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(F.gelu(self.linear_1(x)))


class MambaVLM(Student):
    """Images and text to the logits of the next token.

    As a :class:`Student` its layers are those of the language model. Its input is a mapping with the names of
    ``transformers``: ``input_ids`` ``(batch, length)`` and, when there are images, ``pixel_values``
    ``(images, channels, H, W)`` in the order in which they are met. In the ids every image is ``tokens_per_image``
    times ``image_token_id``; the tower's tokens, projected, take the place of their embeddings.

    Attributes:
        vision_tower, multi_modal_projector, language_model: The three parts.
        image_token_id, tokens_per_image: How an image is written in the ids.
    """

    def __init__(self, config: MambaVLMConfig):
        super().__init__()
        self.config = config
        self.name = "transmamba_vlm_tiny"
        tower = create_model(config.vision, **{"num_classes": 0, **config.vision_options})
        language = create_model(config.language, **config.language_options)
        assert isinstance(tower, Student)
        assert isinstance(language, MambaLM)
        self.vision_tower, self.language_model = tower, language
        self.multi_modal_projector = Projector(tower.widths[-1], language.config.d_model)
        self.tokens_per_image = math.prod(tower.grids[-1] or ())
        self.image_token_id = language.config.vocab_size if config.image_token_id is None else config.image_token_id
        self.directions, self.grid = language.directions, None
        self.layer_names = [f"language_model.{name}" for name in language.layer_names]

    @property
    def head(self) -> nn.Module:  # type: ignore[override]
        """Maps the normalised tokens to logits."""
        return self.language_model.head

    def embed(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return what the language model reads, ``(batch, length, d_model)``.

        Raises:
            KeyError: ``input_ids`` is missing.
            ValueError: The ids do not leave room for as many image tokens as the images give.
        """
        ids, images = inputs["input_ids"], inputs.get("pixel_values")
        is_image = ids == self.image_token_id
        count = 0 if images is None else len(images)
        if (found := int(is_image.sum())) != count * self.tokens_per_image:
            raise ValueError(
                f"input_ids must hold the image token {self.image_token_id} {self.tokens_per_image} times for each of "
                f"{count} images of pixel_values, got it {found} times"
            )
        # The image token need not be in the vocabulary: its own embedding is never seen.
        text = self.language_model.backbone.embedding(ids.masked_fill(is_image, 0))
        if images is None:
            return text
        seen = self.multi_modal_projector(self.vision_tower.forward_tokens(images))
        return text.masked_scatter(is_image.unsqueeze(-1), seen.to(text.dtype))

    def forward_features(  # type: ignore[override]
        self, inputs: Mapping[str, Tensor], taps: Taps | None = None, inference_params: InferenceParams | None = None
    ) -> Tensor:
        """Return the normalised tokens under the head, ``(batch, length, d_model)``; ``taps`` sees language layers."""
        return self.language_model.forward_features(
            inputs["input_ids"], taps, inference_params, inputs_embeds=self.embed(inputs)
        )

    @torch.no_grad()
    def generate(self, inputs: Mapping[str, Tensor], max_new_tokens: int, **options: Any) -> Tensor:
        """Answer: one scan over image and question, then one step per token, at a cost that does not grow.

        Args:
            inputs: Prompts of one length, ``input_ids`` and ``pixel_values``.
            max_new_tokens: How many tokens to add at most.
            options: Of the sampling, as in :meth:`MambaLM.generate`.

        Returns:
            Prompt and continuation, ``(batch, length + new)``.
        """
        ids = inputs["input_ids"]
        return self.language_model.generate(ids, max_new_tokens, inputs_embeds=self.embed(inputs), **options)


# CLIP ViT-B/16's tower beside SmolLM2-135M, and CLIP ViT-L/14's beside Llama-3.2-1B.
register_model("transmamba_vlm_tiny", MambaVLM, MambaVLMConfig())
register_model(
    "transmamba_vlm_base",
    MambaVLM,
    MambaVLMConfig(
        vision_options={"d_model": 1024, "depth": 23, "image_size": 336, "patch_size": 14},
        language="transmamba_lm_base",
    ),
)
# For 8 x 8 digits and bytes.
register_model(
    "transmamba_vlm_micro", MambaVLM, MambaVLMConfig(vision="transmamba_vim_micro", language="transmamba_lm_micro")
)
