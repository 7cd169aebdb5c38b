"""A frozen CLIP that looks at videos: its two towers, their features, and how well texts and videos fit."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from transmamba.teachers.teacher import Teacher, import_transformers, load_model


@dataclasses.dataclass
class ClipOutput:
    """What a CLIP says about a batch of videos and one of texts.

    Attributes:
        video, text: Embeddings of length 1, ``(batch, d_embed)``.
        video_features: After each layer, ``(batch, frames * h * w, d_model)``, without the class token.
        grid: ``(frames, h, w)``.
        text_features: After each layer, ``(batch, length, d_model)``.
    """

    video: Tensor
    text: Tensor
    video_features: list[Tensor]
    grid: tuple[int, ...]
    text_features: list[Tensor]


class ClipTeacher(nn.Module):
    """A ``CLIPModel`` of transformers, in eval mode and without gradients when called through here.

    A video is the mean over its frames, each looked at alone: "mean pooling" of Luo et al., "CLIP4Clip"
    (https://arxiv.org/abs/2104.08860), section 3.4. Such a teacher cannot know in which order the frames come.

    Attributes:
        model: The whole CLIP, to be trained or saved on its own.
        vision, text: Its towers as :class:`transmamba.teachers.Teacher`, whose heads are the projections.
        d_embed: Width of the common space.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model: Any = model
        self.vision, self.text = _tower(model, "vision"), _tower(model, "text")
        self.d_embed: int = self.vision.num_classes
        self.eval()

    def train(self, mode: bool = True) -> ClipTeacher:
        """Stay in eval mode, as every teacher; train ``model`` itself."""
        return super().train(False)

    def encode_video(self, clips: Tensor) -> Tensor:
        """Embed ``(batch, channels, frames, H, W)`` as ``(batch, d_embed)``, with gradients."""
        frames = self.vision.model(pixel_values=clips.transpose(1, 2).flatten(0, 1)).image_embeds
        return F.normalize(F.normalize(frames, dim=-1).unflatten(0, (-1, clips.shape[2])).mean(1), dim=-1)

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Embed token ids ``(batch, length)`` as ``(batch, d_embed)``, with gradients."""
        return F.normalize(self.text.model(input_ids=input_ids, attention_mask=attention_mask).text_embeds, dim=-1)

    @property
    def scale(self) -> Tensor:
        """Inverse temperature, at most 100."""
        return self.model.logit_scale.exp().clamp(max=100.0)

    @torch.no_grad()
    def forward(self, clips: Tensor, input_ids: Tensor, attention_mask: Tensor | None = None) -> ClipOutput:
        """Embeddings and features of videos ``(batch, channels, frames, H, W)`` and of texts ``(batch, length)``."""
        self.eval()
        with self.vision.taps() as frames:
            video = self.encode_video(clips)
        with self.text.taps() as words:
            text = self.encode_text(input_ids, attention_mask)
        count = clips.shape[2]
        features = [f[:, self.vision.spec.special_tokens :].unflatten(0, (-1, count)).flatten(1, 2) for f in frames]
        return ClipOutput(video, text, features, (count, *(self.vision.grid or ())), words)


def create_clip(source: Any) -> ClipTeacher:
    """Wrap a CLIP: the model itself, its ``CLIPConfig`` (random weights), or the folder or hub name of a saved one.

    Raises:
        TypeError: ``source`` is none of these.
        ValueError: The folder or model is no CLIP of images and texts.
        FileNotFoundError: The folder does not exist.
        ImportError: transformers is needed and not installed.
    """
    transformers = import_transformers()
    if isinstance(source, (str, os.PathLike)):
        source = load_model(source, {"clip": ("CLIPModel",)})
    if isinstance(source, transformers.CLIPConfig):
        source = transformers.CLIPModel(source)
    if not isinstance(source, nn.Module):
        raise TypeError(f"a CLIP is made from a model, a CLIPConfig or a path, got {type(source).__name__}")
    if not isinstance(source, transformers.CLIPModel):
        raise ValueError(f"the teacher of videos and texts must be a CLIPModel, got {type(source).__name__}")
    return ClipTeacher(source)


def _tower(model: Any, kind: str) -> Teacher:
    """One tower under the names that it has on its own, with the modules of the whole."""
    import transformers

    name, projection = (
        f"CLIP{kind.title()}ModelWithProjection",
        {"vision": "visual_projection"}.get(kind, "text_projection"),
    )
    with torch.device("meta"):  # only a shell, which is filled
        tower = getattr(transformers, name)(getattr(model.config, f"{kind}_config"))
    for part in (f"{kind}_model", projection):
        setattr(tower, part, getattr(model, part))
    return Teacher(tower, dataclasses.replace(Teacher(tower).spec, head=projection))
