"""Text-video retrieval: clips with captions in batches, and how well each finds the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from transmamba.tasks.video import to_float

DIRECTIONS = ("text_to_video", "video_to_text")


class CaptionedClips(Dataset):
    """Pairs of clip and caption; a list of indices gives a batch.

    Args:
        clips: uint8 ``(rows, channels, frames, size, size)``, in memory or mapped.
        row_of_text: Row of each caption's clip, ``(texts,)``.
        input_ids, attention_mask: Of each caption, int64 ``(texts, length)``.
        mean, std: By which the clips are normalised, see :func:`transmamba.tasks.video.to_float`.
    """

    def __init__(
        self,
        clips: np.ndarray,
        row_of_text: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor,
        mean: Sequence[float] = (0.5,),
        std: Sequence[float] = (0.5,),
    ):
        self.clips, self.row_of_text = clips, row_of_text
        self.input_ids, self.attention_mask = input_ids, attention_mask
        self.mean, self.std = mean, std
        self.rows, self.video_of_text = row_of_text.unique(return_inverse=True)

    def __len__(self) -> int:
        return len(self.row_of_text)

    def __getitem__(self, indices: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Clips, float32 ``(batch, channels, frames, size, size)``, token ids and attention mask of the captions."""
        return self.at(self.row_of_text[indices]), self.input_ids[indices], self.attention_mask[indices]

    def at(self, rows: Tensor) -> Tensor:
        """The clips of these rows, as a student takes them."""
        return to_float(torch.from_numpy(self.clips[rows.numpy()]), self.mean, self.std)


@torch.no_grad()
def embed(
    data: CaptionedClips,
    encode_video: Callable[[Tensor], Tensor],
    encode_text: Callable[[Tensor, Tensor], Tensor],
    batch_size: int = 256,
) -> tuple[Tensor, Tensor]:
    """Embeddings of all captions ``(texts, d)`` and of all clips ``(videos, d)`` of ``data``, on the CPU."""
    texts = zip(data.input_ids.split(batch_size), data.attention_mask.split(batch_size), strict=True)
    text = torch.cat([encode_text(ids, mask).float().cpu() for ids, mask in texts])
    video = torch.cat([encode_video(data.at(rows)).float().cpu() for rows in data.rows.split(batch_size)])
    return text, video


def retrieval_metrics(similarity: Tensor, video_of_text: Tensor | None = None) -> dict[str, dict[str, float]]:
    """How high the right one stands when each text looks for its video, and each video for one of its texts.

    A rank is 1 plus how many wrong ones are at least as similar as the right one: what cannot be told apart counts as
    not found, and equal captions of two videos are no help. Of several texts of a video the most similar is looked for.

    Args:
        similarity: ``(texts, videos)``.
        video_of_text: Index of each text's video, ``(texts,)``; without it text ``i`` belongs to video ``i``.

    Returns:
        For ``"text_to_video"`` and ``"video_to_text"``: ``R@1``, ``R@5``, ``R@10`` (from 0 to 1), ``median rank``
        and ``mean rank``.

    Raises:
        ValueError: A similarity is not finite, the shapes do not belong together, or a video has no text.
    """
    if similarity.dim() != 2 or not similarity.numel() or not similarity.isfinite().all():
        raise ValueError(f"similarity must be finite numbers (texts, videos), got shape {tuple(similarity.shape)}")
    texts, videos = similarity.shape
    if video_of_text is None:
        video_of_text = torch.arange(texts)
    if video_of_text.shape != (texts,) or not torch.equal(video_of_text.unique(), torch.arange(videos)):
        raise ValueError(
            f"video_of_text must give each of {texts} texts a video from 0 to {videos - 1}, and each video a text"
        )
    right = F.one_hot(video_of_text, videos).bool()
    own = similarity[right]
    to_video = 1 + ((similarity >= own[:, None]) & ~right).sum(1)
    best = similarity.masked_fill(~right, -torch.inf).amax(0)
    to_text = 1 + ((similarity >= best) & ~right).sum(0)
    return {name: _summary(ranks) for name, ranks in zip(DIRECTIONS, (to_video, to_text), strict=True)}


def _summary(ranks: Tensor) -> dict[str, float]:
    ranks = ranks.double()
    found = {f"R@{k}": (ranks <= k).double().mean().item() for k in (1, 5, 10)}
    return {**found, "median rank": ranks.quantile(0.5).item(), "mean rank": ranks.mean().item()}


def tokenize(tokenizer: Any, texts: Sequence[str], max_length: int) -> tuple[Tensor, Tensor]:
    """Ids and attention mask ``(texts, length)`` of a tokenizer of transformers, as long as the longest text needs."""
    encoded = tokenizer(list(texts), padding=True, truncation=True, max_length=max_length, return_tensors="pt")
    return encoded["input_ids"], encoded["attention_mask"]
