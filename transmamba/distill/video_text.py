"""Distillation of a CLIP into two towers at once: features of each, and the similarities of both together."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from transmamba.distill.axis import Axis
from transmamba.distill.distiller import DistillConfig, Distiller
from transmamba.distill.losses import contrastive_loss, similarity_loss
from transmamba.distill.report import SubcloneReport
from transmamba.distill.subcloning import SubcloneConfig, subclone
from transmamba.distill.taps import Taps
from transmamba.models import VideoText
from transmamba.teachers import ClipTeacher


class VideoTextDistiller(nn.Module):
    r"""Two towers, what calibrates them, and the loss that draws them to a CLIP.

    .. math:: L = \beta L_{contrastive} + \frac{\alpha}{2} (L_{video} + L_{text}) + \kappa L_{similarity}

    with the feature term of :class:`transmamba.distill.Distiller` for each tower,
    :func:`~transmamba.distill.losses.contrastive_loss` as the task and
    :func:`~transmamba.distill.losses.similarity_loss` in the place of the logits term.

    Args:
        student: A :class:`transmamba.models.VideoText`.
        teacher: A :class:`transmamba.teachers.ClipTeacher`.
        config: A :class:`transmamba.distill.DistillConfig`; its temperature is not used, for both sides have their own.
        channels: Of video and text tower, as of :class:`transmamba.distill.Distiller`.

    Raises:
        ValueError, TypeError: An argument does not fit the others; the message names it.
    """

    def __init__(
        self,
        student: VideoText,
        teacher: ClipTeacher,
        config: DistillConfig | None = None,
        channels: Any = (None, None),
    ):
        super().__init__()
        self.config = config = DistillConfig() if config is None else config
        if config.weighting == "official":
            raise ValueError("weighting 'official' replaces the task's loss, which retrieval needs")
        features = dataclasses.replace(config, alpha=1.0, beta=0.0, kappa=0.0)
        self.student = student
        self.video = Distiller(student.video, teacher.vision, features, channels[0])
        self.text = Distiller(student.text, teacher.text, features, channels[1])
        self._teacher = (teacher,)  # in a tuple, as in Distiller: not a part of the state

    def loss(
        self, clips: Tensor, input_ids: Tensor, attention_mask: Tensor, progress: float = 0.0
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of one batch of pairs; in train mode it also advances the adaptive weights by one step.

        Args:
            clips: ``(batch, channels, frames, H, W)``.
            input_ids, attention_mask: Of their texts, ``(batch, length)``.
            progress: Part of the training that is done, 0 to 1; felt by ``alpha_decay`` alone.

        Returns:
            The scalar to differentiate, and the terms, detached and before their weights.
        """
        config, (teacher,) = self.config, self._teacher
        alpha = config.alpha * self.video.remaining(progress)
        directions = config.directions != "merged"
        seen = teacher(clips, input_ids, attention_mask) if alpha or config.kappa else None
        taps = [Taps(directions=directions) if alpha else None for _ in range(2)]
        video = self.student.encode_video(clips, taps[0])
        text = self.student.encode_text(input_ids, attention_mask, taps[1])
        similarity = self.student.scale * text @ video.t()
        terms = {"task": contrastive_loss(similarity)}
        total = config.beta * terms["task"]
        if seen is not None and config.kappa:
            terms["kd"] = similarity_loss(similarity, teacher.scale * seen.text @ seen.video.t())
            total = total + config.kappa * terms["kd"]
        if seen is not None and taps[0] is not None and taps[1] is not None:
            of_video, cosines = self.video.feature_loss(taps[0], seen.video_features, seen.grid)
            of_text, of_words = self.text.feature_loss(taps[1], seen.text_features, None, attention_mask)
            terms["feature"] = (of_video + of_text) / 2
            terms |= {f"video_{name}": value for name, value in cosines.items()}
            terms |= {f"text_{name}": value for name, value in of_words.items()}
            total = total + alpha * terms["feature"]
        return total, {name: value.detach() for name, value in terms.items()}


@torch.no_grad()
def subclone_video_text(
    student: VideoText,
    teacher: ClipTeacher,
    config: SubcloneConfig | None = None,
    clips: Iterable[Tensor] | None = None,
    input_ids: Iterable[Tensor] | None = None,
) -> tuple[SubcloneReport, SubcloneReport]:
    """Subclone each tower, and the text's projection and the temperature; return both towers' reports.

    Args:
        clips, input_ids: Batches that subcloning looks at, see :func:`transmamba.distill.subclone`.

    Raises:
        ValueError: The common spaces differ in width.
    """
    if student.config.d_embed != teacher.d_embed:
        raise ValueError(f"d_embed must be the teacher's {teacher.d_embed}, got {student.config.d_embed}")
    video = subclone(student.video, teacher.vision, config, clips)
    text = subclone(student.text, teacher.text, config, input_ids)
    projection, found = student.text_projection.weight, teacher.text.part("head").weight.detach()
    channels = torch.tensor(text.channels)
    if projection.shape[1] <= found.shape[1]:
        axis = Axis("channels", channels, torch.arange(len(channels)), found.shape[1], projection.shape[1])
        projection.copy_(axis.scale * found[:, channels])
    else:
        projection[:, channels] = found
    student.logit_scale.copy_(teacher.model.logit_scale)
    return video, text
