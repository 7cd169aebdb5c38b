"""Questions about images as tensors: what a training takes and what the answers are compared with."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from transmamba.tasks.colour_images import open_image


@dataclasses.dataclass(frozen=True)
class Questions:
    """Questions, each about one of the images; many may be about the same.

    Attributes:
        images: ``(images, 3, size, size)``, uint8.
        image: Index of each question's image, ``(questions,)``, int64.
        texts: The questions.
        answers: Index of each one's answer, ``(questions,)``, int64.
        kinds: Name of each one's kind.
    """

    images: Tensor
    image: Tensor
    texts: list[str]
    answers: Tensor
    kinds: list[str]

    def __len__(self) -> int:
        return len(self.texts)

    def about_first(self, images: int) -> Questions:
        """The questions about the first so many images."""
        kept = (self.image < images).nonzero().flatten()
        texts, kinds = ([names[i] for i in kept] for names in (self.texts, self.kinds))
        return Questions(self.images[:images], self.image[kept], texts, self.answers[kept], kinds)

    def resized(self, size: int) -> Questions:
        """The same about images of ``size`` x ``size`` pixels."""
        if self.images.shape[-1] == size:
            return self
        images = F.interpolate(self.images, size=(size, size), mode="bilinear", antialias=True)
        return dataclasses.replace(self, images=images)


class EncodedQuestions:
    """Questions as a training takes them: ``encoded[indices]`` is ``(images, ids, mask, answers)``.

    Images are float32 in [-1, 1], ids int64 ``(batch, words)`` padded to the longest of all, mask bool, answers int64.

    Args:
        tokenizer: As of :func:`build_tokenizer`.
        order: Which question is asked about each image in place of its own, ``(questions,)``; None for its own.
    """

    def __init__(self, questions: Questions, tokenizer: Any, order: Tensor | None = None):
        self.questions = questions
        ids, mask = encode(tokenizer, questions.texts)
        self.ids, self.mask = (ids, mask) if order is None else (ids[order], mask[order])

    def __len__(self) -> int:
        return len(self.questions)

    def __getitem__(self, indices: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        asked = self.questions
        images = normalise(asked.images[asked.image[indices]])
        return images, self.ids[indices], self.mask[indices], asked.answers[indices]


def normalise(images: Tensor) -> Tensor:
    """uint8 to float32 in [-1, 1]."""
    return images.float() / 127.5 - 1


def build_tokenizer(texts: Sequence[str]) -> Any:
    """A ``tokenizers.Tokenizer`` of the words and marks in ``texts``, without regard to case; padding has id 0.

    Raises:
        ImportError: tokenizers, which comes with transformers, is not installed.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.WordLevel(unk_token="<unknown>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = ["<padding>", "<unknown>"]
    tokenizer.train_from_iterator(sorted(set(texts)), trainers.WordLevelTrainer(special_tokens=special))
    tokenizer.enable_padding(pad_token="<padding>")
    return tokenizer


def encode(tokenizer: Any, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """``(ids, mask)`` of ``texts``, ``(texts, words)`` of int64 and bool."""
    encodings = tokenizer.encode_batch(list(texts))
    ids = torch.tensor([encoding.ids for encoding in encodings])
    return ids, torch.tensor([encoding.attention_mask for encoding in encodings], dtype=torch.bool)


def read_image(path: str | Path, size: int | None = None) -> Tensor:
    """Read an image file as ``(3, height, width)`` of uint8, or ``(3, size, size)``.

    Raises:
        FileNotFoundError: It is missing.
        ValueError: It is no image, or a damaged one.
        ImportError: Pillow is not installed.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"image {path} is missing")
    image = open_image(path)
    if size is not None and image.size != (size, size):
        from PIL.Image import Resampling

        image = image.resize((size, size), Resampling.BILINEAR)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)
