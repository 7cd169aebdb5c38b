"""The data of a retrieval run: clips and captions of both splits, decoded once and kept beside the runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from transmamba.config import digest
from transmamba.retrieve.config import MOVING_MNIST, RetrieveConfig
from transmamba.tasks.captions import Captions, load_captions
from transmamba.tasks.moving_mnist import moving_mnist_captions, read_mnist, write_moving_mnist
from transmamba.tasks.retrieval import CaptionedClips, tokenize
from transmamba.tasks.video import VideoError, cache_clips

# Told the name of a piece of work, how many of its files are done, and how many there are.
Progress = Callable[[str, int, int], None]


@dataclasses.dataclass(frozen=True)
class VideoData:
    """Both splits as batches, and what they were made from.

    Attributes:
        train, test: The pairs.
        test_texts: The captions of ``test``, as people read them.
        left_out: For each split how many videos are missing or could not be used, and the first reason.
    """

    train: CaptionedClips
    test: CaptionedClips
    test_texts: list[str]
    left_out: dict[str, dict[str, Any]]


def read_captions(config: RetrieveConfig) -> dict[str, Captions]:
    """Captions of both splits, and where their videos are; the clips of moving-mnist need not be there yet.

    Raises:
        FileNotFoundError, ValueError: Files are missing or wrong; the message says which, and how to get them.
    """
    if config.data == MOVING_MNIST:
        for part in ("train", "t10k"):
            read_mnist(config.data_dir, part)
        return moving_mnist_captions(_clips(config), config.train_clips, config.test_clips, config.seed)
    if config.data_dir is None:
        raise FileNotFoundError(f"{config.data} needs the folder of its captions and videos: give --data-dir")
    return load_captions(config.data, config.data_dir)


def load_data(
    config: RetrieveConfig,
    captions: dict[str, Captions],
    tokenizer: Any,
    max_length: int,
    normalise: tuple[list[float], list[float]],
    progress: Progress = lambda name, done, total: None,
) -> VideoData:
    """Write the clips of moving-mnist if they are not there yet, decode what is not decoded, and tokenize.

    Raises:
        VideoError: None of a split's videos can be used; the message gives the first reason.
    """
    if config.data == MOVING_MNIST:
        write_moving_mnist(
            config.data_dir,
            _clips(config),
            config.train_clips,
            config.test_clips,
            config.seed,
            lambda done, total: progress("write", done, total),
        )
    splits: dict[str, CaptionedClips] = {}
    texts: dict[str, list[str]] = {}
    left_out: dict[str, dict[str, Any]] = {}
    for split, of_split in captions.items():
        shape = config.frames, config.image_size, config.channels
        name = digest([config.data, str(Path(config.data_dir or "").resolve()), split, *shape, _clips(config).name])[
            :10
        ]
        clips, skipped = cache_clips(
            of_split.videos,
            *shape,
            _clips(config).parent / f"{config.data}-{split}-{name}",
            lambda done, total: progress("decode", done, total),
        )
        usable = [str(path) not in skipped for path in of_split.videos]
        kept = [i for i, row in enumerate(of_split.video_of_text) if usable[row]]
        reasons = [*skipped.values(), *(f"{video} is missing" for video in of_split.missing)]
        if not kept:
            raise VideoError(f"none of the {split} videos can be used: {reasons[0]}")
        left_out[split] = {"missing": len(of_split.missing), "unusable": len(skipped), "first": reasons[:1]}
        rows = torch.tensor([of_split.video_of_text[i] for i in kept])
        texts[split] = [of_split.texts[i] for i in kept]
        ids, mask = tokenize(tokenizer, texts[split], max_length)
        splits[split] = CaptionedClips(clips, rows, ids, mask, *normalise)
    return VideoData(splits["train"], splits["test"], texts["test"], left_out)


def describe_left_out(left_out: dict[str, dict[str, Any]]) -> list[str]:
    """One line for each split that lost videos."""
    return [
        f"{split}: {found['missing'] + found['unusable']} videos left out, {found['missing']} missing and "
        f"{found['unusable']} not usable; the first: {found['first'][0]}"
        for split, found in left_out.items()
        if found["first"]
    ]


def _clips(config: RetrieveConfig) -> Path:
    """Folder of the clips of moving-mnist, beside the runs; decoded arrays lie beside it."""
    name = f"{config.data}-{config.train_clips}-{config.test_clips}-seed{config.seed}"
    return config.folder.parent / "clips" / name
