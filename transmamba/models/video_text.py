"""VideoMamba and a Mamba text encoder that meet in one space, in the layout of a CLIP.

Luo et al., "CLIP4Clip" (https://arxiv.org/abs/2104.08860), brings CLIP to videos; here both towers are students.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from transmamba.layers.checks import positive_int
from transmamba.models.initialisation import initialise_linears
from transmamba.models.registry import create_model, register_model
from transmamba.models.student import Student

_START, _MOST = 1 / 0.07, 100.0  # of the scale, as in CLIP


@dataclasses.dataclass(frozen=True)
class VideoTextConfig:
    """Two students by name. The defaults have the widths and depths of CLIP ViT-B/16 and of the text tower beside it.

    Attributes:
        video, text: Names of a student of videos and of a text encoder, see :func:`transmamba.models.list_models`.
        video_options, text_options: Options of these.
        d_embed: Width of the common space.
    """

    video: str = "transmamba_videomamba_base"
    text: str = "transmamba_text_base"
    video_options: dict[str, Any] = dataclasses.field(default_factory=dict)
    text_options: dict[str, Any] = dataclasses.field(default_factory=dict)
    d_embed: int = 512

    def __post_init__(self) -> None:
        positive_int(d_embed=self.d_embed)


class VideoText(nn.Module):
    """Embeds videos and texts as vectors of length 1 whose products say how well they fit.

    Attributes:
        video: The tower of the videos; its head is the projection into the common space.
        text: The tower of the texts, pooled by its head.
        text_projection: Of the pooled texts.
        logit_scale: Logarithm of the inverse temperature of the similarities, learned.
    """

    video: Student
    text: Student

    def __init__(self, config: VideoTextConfig):
        super().__init__()
        self.config = config
        self.name = "transmamba_video_text_base"
        video: Any = create_model(config.video, **{**config.video_options, "num_classes": config.d_embed})
        if len(video.grid or ()) != 3:
            raise ValueError(f"video must be a student of videos, got {config.video!r}")
        text: Any = create_model(config.text, **config.text_options)
        if text.grid is not None or text.config.num_classes:
            raise ValueError(f"text must be a text encoder, got {config.text!r}")
        self.video, self.text = video, text
        self.text_projection = nn.Linear(text.config.d_model, config.d_embed, bias=False)
        initialise_linears(self.text_projection)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(_START)))

    @property
    def scale(self) -> Tensor:
        """Inverse temperature, at most 100, as in CLIP."""
        return self.logit_scale.clamp(max=math.log(_MOST)).exp()

    def encode_video(self, clips: Tensor, taps: Any = None) -> Tensor:
        """Embed ``(batch, channels, frames, H, W)`` as ``(batch, d_embed)``; ``taps`` as of the video tower."""
        return F.normalize(self.video.head(self.video.forward_features(clips, taps)), dim=-1)

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor | None = None, taps: Any = None) -> Tensor:
        """Embed token ids ``(batch, length)`` as ``(batch, d_embed)``; ``taps`` as of the text tower."""
        tokens = self.text.forward_features(input_ids, taps, attention_mask)  # type: ignore[call-arg]
        return F.normalize(self.text_projection(self.text.head(tokens, attention_mask)), dim=-1)

    def forward(self, clips: Tensor, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Return the similarities of all texts to all clips over the temperature, ``(texts, clips)``."""
        return self.scale * self.encode_text(input_ids, attention_mask) @ self.encode_video(clips).t()


# As CLIP's towers have it: norms in front of the frames' blocks, and none in front of the words'.
_VIDEO = {"embedding_norm": True, "class_token": "none"}
_TEXT = {"token_types": 0, "embedding_norm": False}
_BASE = VideoTextConfig(
    video_options={**_VIDEO, "num_frames": 12},
    text_options={**_TEXT, "pooling": "last", "d_model": 512, "vocab_size": 49408, "max_length": 77},
)
register_model("transmamba_video_text_base", VideoText, _BASE)
# For 6 frames of 32 x 32.
_MICRO = VideoTextConfig(
    "transmamba_videomamba_micro",
    "transmamba_text_micro",
    {**_VIDEO, "image_size": 32, "patch_size": 8, "num_frames": 6, "tubelet_size": 2, "depth": 3, "d_state": 8},
    {**_TEXT, "depth": 2, "d_state": 8},
    d_embed=64,
)
register_model("transmamba_video_text_micro", VideoText, _MICRO)
