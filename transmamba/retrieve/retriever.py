"""A trained student that is ready to search: model, tokenizer, and how its clips are made."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from transmamba.files import write_json
from transmamba.models import VideoText, load_pretrained, save_pretrained
from transmamba.run_folder import student_folder
from transmamba.tasks.retrieval import CaptionedClips, embed, retrieval_metrics, tokenize
from transmamba.tasks.text import load_tokenizer
from transmamba.tasks.video import read_clips, to_float

_CLIPS = "clips.json"


@dataclasses.dataclass
class Found:
    """One result of a search: a file, and how similar it is to the text, from -1 to 1."""

    path: Path
    similarity: float


@dataclasses.dataclass
class Retriever:
    """Everything that :meth:`search` needs.

    Attributes:
        model: The student.
        tokenizer: Of transformers.
        mean, std: By which clips are normalised.
    """

    model: VideoText
    tokenizer: Any
    mean: list[float]
    std: list[float]

    @property
    def clip(self) -> tuple[int, int, int]:
        """Frames, size and channels of a clip."""
        config = self.model.video.config
        return config.num_frames, config.image_size, config.in_channels

    @property
    def max_length(self) -> int:
        """Tokens of the longest text."""
        return self.model.text.config.max_length

    def save(self, folder: str | Path) -> None:
        """Write it so that :meth:`load` returns it."""
        save_pretrained(self.model, folder)
        self.tokenizer.save_pretrained(folder)
        write_json(Path(folder) / _CLIPS, {"mean": self.mean, "std": self.std})

    @classmethod
    def load(cls, folder: str | Path) -> Retriever:
        """Return the student of a run, or of a folder that :meth:`save` wrote, in eval mode.

        Raises:
            FileNotFoundError, ValueError: As of :func:`transmamba.models.load_pretrained`, or a file is missing.
        """
        folder = student_folder(folder)
        model = load_pretrained(folder)
        if not isinstance(model, VideoText):
            raise ValueError(
                f"{folder} holds {getattr(model, 'name', 'a model')}, which is no student of videos and texts"
            )
        path = folder / _CLIPS
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing; it lies beside the student of a retrieval run")
        content = json.loads(path.read_text(encoding="utf-8"))
        return cls(model, load_padding_tokenizer(folder), content["mean"], content["std"])

    @torch.no_grad()
    def search(
        self,
        text: str,
        videos: Sequence[Path],
        skipped: dict[str, str],
        progress: Callable[[int, int], None] = lambda done, total: None,
        batch_size: int = 16,
    ) -> list[Found]:
        """All usable ``videos``, the most similar to ``text`` first; equal ones stay in their order.

        Args:
            skipped: Receives the files that could not be used, and why.
            progress: Told how many of all files are done.
        """
        device = next(self.model.parameters()).device
        ids, mask = tokenize(self.tokenizer, [text], self.max_length)
        wanted = self.model.encode_text(ids.to(device), mask.to(device))[0]
        found: list[Found] = []
        for rows, clips in self._batches(videos, skipped, progress, batch_size):
            similarity = self.model.encode_video(clips.to(device)) @ wanted
            found += [Found(videos[row], value) for row, value in zip(rows, similarity.tolist(), strict=True)]
        return sorted(found, key=lambda one: -one.similarity)

    def _batches(
        self, videos: Sequence[Path], skipped: dict[str, str], progress: Callable[[int, int], None], batch_size: int
    ) -> Iterator[tuple[list[int], Tensor]]:
        read: list[tuple[int, np.ndarray]] = []
        for row, clip in read_clips(videos, *self.clip, skipped):
            read.append((row, clip))
            progress(row + 1, len(videos))
            if len(read) == batch_size:
                yield self._batch(read)
                read = []
        if read:
            yield self._batch(read)

    def _batch(self, read: list[tuple[int, np.ndarray]]) -> tuple[list[int], Tensor]:
        clips = torch.from_numpy(np.stack([clip for _, clip in read]))
        return [row for row, _ in read], to_float(clips, self.mean, self.std)


def embeddings(model: Any, data: CaptionedClips) -> tuple[Tensor, Tensor]:
    """Embeddings of all texts and of all clips of ``data`` by a student or a CLIP, on the CPU."""
    device = model.scale.device
    return embed(
        data,
        lambda clips: model.encode_video(clips.to(device)),
        lambda ids, mask: model.encode_text(ids.to(device), mask.to(device)),
    )


def measure(model: Any, module: nn.Module, data: CaptionedClips) -> dict[str, float]:
    """What a student, or a :class:`transmamba.teachers.ClipTeacher`, reaches on ``data``, by name.

    From text to video the names are ``R@1``, ``R@5``, ``R@10``, ``median rank`` and ``mean rank``; the other way
    ``video to text`` stands before them.

    Args:
        module: The modules of ``model``, which are put in eval mode meanwhile.
    """
    training = module.training
    module.eval()
    text, video = embeddings(model, data)
    module.train(training)
    found = retrieval_metrics(text @ video.t(), data.video_of_text)
    return {
        f"{prefix}{name}": value
        for prefix, direction in (("", "text_to_video"), ("video to text ", "video_to_text"))
        for name, value in found[direction].items()
    }


def load_padding_tokenizer(source: str | Path) -> Any:
    """The tokenizer of transformers in a folder, or of a hub name.

    Raises:
        ValueError: There is none, or it cannot pad.
    """
    tokenizer = load_tokenizer(source)
    if tokenizer.pad_token is None:
        raise ValueError(f"the tokenizer of {str(source)!r} has no token to pad with")
    return tokenizer
