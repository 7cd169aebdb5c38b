"""Questions about images: generated scenes against their pixels, easy-VQA's layout, blind answers, and pairs."""

import importlib.util
import json

import numpy as np
import pytest
import torch

from transmamba.tasks.questions import EncodedQuestions, Questions, build_tokenizer
from transmamba.tasks.sort_of_clevr import COLORS, sort_of_clevr
from transmamba.tasks.vqa import VqaData, accuracies, blind_baselines, load_vqa, other_questions, question_pairs

pytest.importorskip("tokenizers")
Image = pytest.importorskip("PIL.Image")


def seen(image):
    """What a person would see: the middle of each color and whether it is round, from the pixels alone."""
    objects = {}
    for name, color in COLORS.items():
        rows, columns = np.nonzero((image == np.array(color)).all(-1))
        objects[name] = (rows.mean(), columns.mean(), len(rows) < 60)  # a square of 9 x 9 or a disc within
    return objects


def answer(question, objects):
    words = question.rstrip("?").split()
    name = next(word for word in words if word in objects)
    row, column, round_one = objects[name]
    others = {n: (o[0] - row) ** 2 + (o[1] - column) ** 2 for n, o in objects.items() if n != name}
    if words[0] == "how":
        return str(sum(o[2] == round_one for o in objects.values()))
    if words[0] == "is":
        return "yes" if (column if "left" in words else row) < 32 else "no"
    if "closest" in words or "furthest" in words:
        chosen = min(others, key=others.get) if "closest" in words else max(others, key=others.get)
        round_one = objects[chosen][2]
    return "circle" if round_one else "rectangle"


def test_scenes_are_as_their_questions_say():
    data = load_vqa("sort-of-clevr", images=6, seed=3)
    scenes = data.train
    assert scenes.images.shape == (6, 3, 64, 64)
    objects = [seen(image) for image in scenes.images.permute(0, 2, 3, 1).numpy()]
    expected = [answer(text, objects[i]) for text, i in zip(scenes.texts, scenes.image.tolist(), strict=True)]
    assert [data.answers[i] for i in scenes.answers] == expected
    assert scenes.kinds.count("relational") == scenes.kinds.count("non-relational") == 60
    again, other = sort_of_clevr(6, 3, 0), sort_of_clevr(6, 4, 0)
    assert torch.equal(again.images, scenes.images)
    assert again.texts == scenes.texts
    assert not torch.equal(other.images, scenes.images)
    with pytest.raises(ValueError, match="sort-of-clevr is generated and needs no data_dir"):
        load_vqa("sort-of-clevr", "somewhere")


@pytest.fixture
def easy(tmp_path):
    """A folder in the layout of easy-VQA: three images to learn from, one to test."""
    (tmp_path / "answers.txt").write_text("circle\nred\nyes\nno\n")
    for part, images in (("train", 3), ("test", 1)):
        (tmp_path / part / "images").mkdir(parents=True)
        for i in range(images):
            Image.new("RGB", (64, 64), (i, 0, 0)).save(tmp_path / part / "images" / f"{i}.png")
        rows = [[text, answer, i] for i in range(images) for text, answer in (("what color?", "red"), ("red?", "yes"))]
        (tmp_path / part / "questions.json").write_text(json.dumps(rows))
    return tmp_path


def test_easy_vqa_from_a_folder(easy):
    data = load_vqa("easy-vqa", easy, images=2, size=32)
    assert data.train.image.tolist() == [0, 0, 1, 1]
    assert data.train.kinds == ["color", "yes or no"] * 2
    assert [data.answers[i] for i in data.test.answers] == ["red", "yes"]
    asked = EncodedQuestions(data.train, build_tokenizer(data.train.texts))
    images, ids, mask, answers = asked[[0, 3]]
    assert images.shape == (2, 3, 32, 32)
    torch.testing.assert_close(images[1, 0], torch.full((32, 32), 1 / 127.5 - 1))
    assert mask.tolist() == [[True] * 3, [True] * 2 + [False]]
    assert ids[1, 2] == 0
    assert answers.tolist() == [1, 2]


def test_what_is_wrong_with_easy_vqa_is_said(easy, monkeypatch):
    with pytest.raises(ValueError, match="images must be at most 3, what easy-vqa has, got 4"):
        load_vqa("easy-vqa", easy, images=4)
    (easy / "test" / "images" / "0.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"0\.png cannot be read as an image"):
        load_vqa("easy-vqa", easy)
    (easy / "train" / "questions.json").write_text('[["what?", "blue", 0]]')
    with pytest.raises(ValueError, match=r"questions\.json and the images beside it are not those of easy-VQA"):
        load_vqa("easy-vqa", easy)
    with pytest.raises(FileNotFoundError, match=r"answers\.txt is missing: install easy-VQA with `pip install"):
        load_vqa("easy-vqa", easy / "train")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="easy-VQA is not installed: install"):
        load_vqa("easy-vqa")


def test_blind_answers_pairs_and_other_questions():
    images, kinds = torch.zeros(3, 3, 4, 4, dtype=torch.uint8), ["a", "b", "a", "b", "a"]
    texts = ["what?", "is it?", "what?", "is it?", "what?"]
    train = Questions(images, torch.tensor([0, 0, 1, 1, 2]), texts, torch.tensor([0, 1, 0, 2, 2]), kinds)
    test = Questions(images, torch.tensor([0, 0, 0, 1, 1]), texts, torch.tensor([0, 0, 1, 1, 1]), kinds)
    found = blind_baselines(VqaData("x", train, test, ["0", "1", "2"]))
    assert found == {"majority": 2 / 5, "question_only": 2 / 5}
    assert question_pairs(test).tolist() == [[0, 2]]
    assert accuracies(torch.tensor([0, 1, 0, 1, 1]), test) == {"accuracy": 3 / 5, "a": 2 / 3, "b": 1 / 2}
    order = other_questions(test)
    assert sorted(order.tolist()) == list(range(5))
    assert (order != torch.arange(5)).all()
