"""Visual question answering as classification: data by name, and what answers are worth without the image."""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from pathlib import Path

import torch
from torch import Tensor, nn

from transmamba.tasks.easy_vqa import easy_vqa
from transmamba.tasks.questions import EncodedQuestions, Questions
from transmamba.tasks.sort_of_clevr import ANSWERS, sort_of_clevr

DATASETS = ("easy-vqa", "sort-of-clevr")
TEST_SCENES = 500  # of Sort-of-CLEVR


@dataclasses.dataclass(frozen=True)
class VqaData:
    """A data set, split for good.

    Attributes:
        name: As in :data:`DATASETS`.
        train, test: About different images.
        answers: All answers, by index.
    """

    name: str
    train: Questions
    test: Questions
    answers: list[str]


def load_vqa(
    name: str, folder: str | Path | None = None, images: int | None = None, size: int = 64, seed: int = 0
) -> VqaData:
    """Load ``"easy-vqa"`` or generate ``"sort-of-clevr"``.

    Args:
        name: One of :data:`DATASETS`.
        folder: Where the files of easy-VQA lie, if not in its installed package.
        images: Training images; None for 4,000, all of easy-VQA, and 9,800, as many as the published Sort-of-CLEVR has.
        size: Resize the images to so many pixels.
        seed: Of generated images.

    Raises:
        ValueError: Unknown name, a damaged file, a folder for generated data, or more images than there are.
        FileNotFoundError: A file is missing; the message says how to get it.
    """
    if name not in DATASETS:
        raise ValueError(f"unknown data set {name!r}; known: {', '.join(DATASETS)}")
    if images is not None and images < 1:
        raise ValueError(f"images must be at least 1, got {images}")
    if name == "sort-of-clevr":
        if folder is not None:
            raise ValueError("sort-of-clevr is generated and needs no data_dir")
        train, test = sort_of_clevr(images or 9800, seed, part=0), sort_of_clevr(TEST_SCENES, seed, part=1)
        return VqaData(name, train.resized(size), test.resized(size), ANSWERS)
    train, test, answers = easy_vqa(None if folder is None else Path(folder))
    if images is not None and images > len(train.images):
        raise ValueError(f"images must be at most {len(train.images)}, what easy-vqa has, got {images}")
    train = train.about_first(images or len(train.images))
    return VqaData(name, train.resized(size), test.resized(size), answers)


def blind_baselines(data: VqaData) -> dict[str, float]:
    """Accuracy on the test part of answering without the image.

    ``majority``: always the commonest answer of the training part. ``question_only``: the commonest one that this very
    question has there, which no model that sees the question alone can beat but by luck.
    """
    train, test = data.train, data.test
    overall = Counter(train.answers.tolist())
    by_text: dict[str, Counter[int]] = defaultdict(Counter)
    for text, answer in zip(train.texts, train.answers.tolist(), strict=True):
        by_text[text][answer] += 1
    majority = overall.most_common(1)[0][0]
    guesses = [by_text[text].most_common(1)[0][0] if text in by_text else majority for text in test.texts]
    return {
        "majority": _share(test.answers == majority),
        "question_only": _share(test.answers == torch.tensor(guesses)),
    }


@torch.no_grad()
def predict(model: nn.Module, questions: EncodedQuestions, batch_size: int = 512) -> Tensor:
    """Index of the answer to each question, ``(questions,)``; the model is asked in eval mode and put back."""
    training, device = model.training, next(model.parameters()).device
    model.eval()
    parts = torch.arange(len(questions)).split(batch_size)
    found = [model(*(tensor.to(device) for tensor in questions[part][:3])).argmax(-1).cpu() for part in parts]
    model.train(training)
    return torch.cat(found)


def accuracies(predicted: Tensor, questions: Questions) -> dict[str, float]:
    """``accuracy`` of ``predicted`` answers, and that of each kind of question under the kind's name."""
    right = predicted == questions.answers
    of_kind = {kind: torch.tensor([k == kind for k in questions.kinds]) for kind in sorted(set(questions.kinds))}
    return {"accuracy": _share(right), **{kind: _share(right[chosen]) for kind, chosen in of_kind.items()}}


def other_questions(questions: Questions, seed: int = 0) -> Tensor:
    """An order of the questions in which each image is asked what was meant for another: ``(questions,)``."""
    shift = 1 + int(torch.randint(len(questions) - 1, (1,), generator=torch.Generator().manual_seed(seed)))
    return torch.arange(len(questions)).roll(shift)


def question_pairs(questions: Questions) -> Tensor:
    """For each image the first two questions that have different answers, ``(pairs, 2)``, in order of the images."""
    first: dict[int, int] = {}
    pairs: dict[int, tuple[int, int]] = {}
    answers = questions.answers.tolist()
    for i, image in enumerate(questions.image.tolist()):
        if image not in pairs and answers[first.setdefault(image, i)] != answers[i]:
            pairs[image] = (first[image], i)
    return torch.tensor(list(pairs.values()), dtype=torch.int64).reshape(-1, 2)


def _share(right: Tensor) -> float:
    return right.double().mean().item()
