"""Sort-of-CLEVR, drawn anew: six objects of different colors, questions about one of them or about how they stand."""

from __future__ import annotations

import numpy as np
import torch

from transmamba.tasks.questions import Questions

COLORS = {
    "red": (255, 0, 0),
    "green": (0, 160, 0),
    "blue": (0, 0, 255),
    "orange": (255, 156, 0),
    "gray": (128, 128, 128),
    "yellow": (255, 255, 0),
}
SHAPES = ("circle", "rectangle")
SIZE, RADIUS = 64, 4  # pixels, of Sort-of-CLEVR


ANSWERS = ["yes", "no", *SHAPES, *"123456"]
QUESTIONS = (  # the first three are about one object, the others about how it stands to the rest
    "what is the shape of the {} object?",
    "is the {} object on the left?",
    "is the {} object at the top?",
    "what is the shape of the object closest to the {} object?",
    "what is the shape of the object furthest from the {} object?",
    "how many objects have the shape of the {} object?",
)


def sort_of_clevr(count: int, seed: int, part: int) -> Questions:
    """``count`` scenes and, of the questions about each, ten about one object and ten about how it stands to the rest.

    After Santoro et al., "A simple neural network module for relational reasoning"
    (https://arxiv.org/abs/1706.01427), section 4.3, with questions as text instead of bits.

    Args:
        seed: Of everything that is drawn.
        part: Scenes of another part are others.
    """
    random = np.random.default_rng([seed, part])
    centers, round_ones = _places(count, random), random.random((count, len(COLORS))) < 0.5
    images = np.full((count, SIZE, SIZE, 3), 245, np.uint8)
    away = abs(np.arange(SIZE) - centers[..., None])  # (count, objects, 2, SIZE), rows and columns
    down, right = away[:, :, 0, :, None], away[:, :, 1, None, :]
    for i, color in enumerate(COLORS.values()):
        disc = down[:, i] ** 2 + right[:, i] ** 2 <= RADIUS**2
        square = np.maximum(down[:, i], right[:, i]) <= RADIUS
        images[np.where(round_ones[:, i, None, None], disc, square)] = color
    answers = _answers(centers, round_ones)
    # Shuffled separately, so that ten of each half are kept.
    order = random.permuted(np.arange(answers.shape[1]).reshape(2, -1)[None].repeat(count, 0), axis=2)
    asked = order[:, :, :10].reshape(count, -1)
    texts = [question.format(color) for question in QUESTIONS for color in COLORS]
    kinds = np.where(asked.ravel() < answers.shape[1] // 2, "non-relational", "relational")
    return Questions(
        torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(),
        torch.arange(count).repeat_interleave(asked.shape[1]),
        [texts[i] for i in asked.ravel()],
        torch.from_numpy(np.take_along_axis(answers, asked, axis=1).ravel()),
        kinds.tolist(),
    )


def _places(count: int, random: np.random.Generator) -> np.ndarray:
    """Centers of objects that do not touch each other or the border, ``(count, objects, 2)``."""
    centers = np.zeros((count, len(COLORS), 2), np.int64)
    wrong = np.arange(count)
    while len(wrong):
        centers[wrong] = random.integers(RADIUS, SIZE - RADIUS, (len(wrong), *centers.shape[1:]))
        distances = _distances(centers[wrong]) + SIZE**2 * np.eye(len(COLORS), dtype=np.int64)
        wrong = wrong[distances.min((1, 2)) <= 2 * (2 * RADIUS) ** 2]
    return centers


def _distances(centers: np.ndarray) -> np.ndarray:
    """Squared, ``(count, objects, objects)``."""
    return ((centers[:, :, None] - centers[:, None]) ** 2).sum(-1)


def _answers(centers: np.ndarray, round_ones: np.ndarray) -> np.ndarray:
    """Index of the answer to every question, ``(count, questions * objects)``."""
    distances, itself = _distances(centers), np.eye(len(COLORS), dtype=bool)
    closest, furthest = np.where(itself, 2 * SIZE**2, distances).argmin(2), distances.argmax(2)
    halves = centers < SIZE // 2
    same = (round_ones[:, :, None] == round_ones[:, None]).sum(2)
    shape = np.where(round_ones, 2, 3)  # indices of SHAPES among the answers, as 0 and 1 are of yes and no
    parts = (
        shape,
        np.where(halves[..., 1], 0, 1),
        np.where(halves[..., 0], 0, 1),
        np.take_along_axis(shape, closest, 1),
        np.take_along_axis(shape, furthest, 1),
        same + 3,  # "1" is the fourth
    )
    return np.concatenate(parts, axis=1)
