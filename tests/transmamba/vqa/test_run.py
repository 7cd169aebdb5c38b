"""A whole run of visual question answering in small: what it leaves, how it goes on, and what can be asked."""

import dataclasses
import json
import os
import signal

import pytest
import torch

pytest.importorskip("tokenizers")
pytest.importorskip("matplotlib")
pytest.importorskip("rich")
pytest.importorskip("tyro")
pytest.importorskip("safetensors")

from transmamba import cli
from transmamba.checkpoint import load_checkpoint
from transmamba.models import create_model, load_pretrained, save_pretrained
from transmamba.tasks import sort_of_clevr, vqa
from transmamba.tasks.questions import EncodedQuestions
from transmamba.train import Interrupted
from transmamba.vqa import Answerer, VqaConfig, prepare, train

STUDENT = {"d_model": 8, "depth": 2, "d_state": 2, "patch_size": 8}


@pytest.fixture(autouse=True)
def few_scenes(monkeypatch):
    monkeypatch.setattr(vqa, "TEST_SCENES", 3)


@pytest.fixture
def tiny(tmp_path):
    """The config of a run of seconds in the test's own folder; options replace its fields."""

    def make(**options):
        config = VqaConfig(
            data="sort-of-clevr",
            images=4,
            image_size=16,
            student="transmamba_vim_micro",
            student_options=STUDENT,
            text_options={"d_model": 8, "depth": 1, "d_state": 2},
            d_state=2,
            batch_size=16,
            out_dir=str(tmp_path / "run"),
        )
        return dataclasses.replace(config, **options)

    return make


class PressAt:
    """Presses Ctrl-C after the given step."""

    def __init__(self, step):
        self.left = step

    def start(self, stage, steps, done):
        pass

    def step(self, loss):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGINT)

    def epoch(self, row, reached):
        pass


def test_a_run_leaves_what_it_says(tiny, capsys):
    config = tiny()
    run = prepare(config)
    metrics = train(run)
    names = {"run.json", "metrics.json", "report.md", "answers.png", "tokenizer.json", "stages", "student"}
    assert {path.name for path in config.folder.iterdir()} == names
    assert metrics == json.loads((config.folder / "metrics.json").read_text()) == train(prepare(config))
    results = metrics["results"]
    assert results["steps"] == 2 * 80 // 16
    assert results["accuracy"] == results["history"][-1]["accuracy"]
    assert set(results["kinds"]) == {"relational", "non-relational"}
    loaded = Answerer.load(config.folder)
    predicted = vqa.predict(loaded.model, EncodedQuestions(run.data.test, loaded.tokenizer))
    assert vqa.accuracies(predicted, run.data.test)["accuracy"] == results["accuracy"]
    report = (config.folder / "report.md").read_text()
    assert f"| all test questions | {results['accuracy']:.2%} |" in report
    assert f"| 0 | {run.data.test.texts[0]} | {run.data.answers[predicted[0]]} |" in report
    assert cli.main(["vqa", "eval", str(config.folder)]) == 0
    assert f"{results['shuffled_questions']:.2%}" in capsys.readouterr().out


def test_stopped_it_goes_on_bit_for_bit(tiny, tmp_path):
    whole, halved = tiny(epochs=1), tiny(epochs=1, out_dir=str(tmp_path / "halved"))
    train(prepare(whole))
    with pytest.raises(Interrupted, match="stopped vqa after step 2 of 5"):
        train(prepare(halved), PressAt(2))
    train(prepare(halved))
    first, second = (load_checkpoint(config.folder / "stages" / "vqa.pt")["model"] for config in (whole, halved))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_ready_student_gets_a_new_head(tiny, tmp_path):
    torch.manual_seed(5)
    student = create_model("transmamba_vim_micro", **STUDENT, image_size=16, in_channels=3, num_classes=7)
    save_pretrained(student, tmp_path / "ready")
    model = prepare(tiny(start=str(tmp_path / "ready"), student_options={})).model
    for name, tensor in load_pretrained(tmp_path / "ready").state_dict().items():
        if not name.startswith("head."):
            assert torch.equal(model.student.state_dict()[name], tensor)
    assert model.student.head.weight.shape == (10, 8)
    with pytest.raises(ValueError, match=r"has image_size 16, the data 32: give --image-size"):
        prepare(tiny(start=str(tmp_path / "ready"), student_options={}, image_size=32))


def test_asked_on_the_command_line(tiny, tmp_path, capsys):
    image = pytest.importorskip("PIL.Image")
    config, picture = tiny(epochs=1), tmp_path / "a.png"
    train(prepare(config))
    pixels = sort_of_clevr.sort_of_clevr(1, 0, 0).images[0].permute(1, 2, 0).numpy()
    image.fromarray(pixels).save(picture)
    folder = str(config.folder)
    assert cli.main(["vqa", "ask", folder, str(picture), "Is the RED object huge?", "--top", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "words that no training question has: huge"
    assert len(lines) == 3
    assert all(line.split()[1] in sort_of_clevr.ANSWERS for line in lines[1:])
    for arguments, message in (
        (["ask", folder, str(picture), " "], "question must not be empty"),
        (["ask", folder, str(tmp_path / "b.png"), "what?"], "b.png is missing"),
        (["ask", folder, folder + "/run.json", "what?"], "run.json cannot be read as an image"),
        (["ask", str(tmp_path), str(picture), "what?"], "holds no run of transmamba"),
        (["eval", str(tmp_path)], "holds no run of transmamba"),
        (["--preset", "hard-vqa"], "unknown preset 'hard-vqa' (did you mean 'easy-vqa'?)"),
        (["--data", "clevr", "--out-dir", folder], "unknown data set 'clevr'; known: easy-vqa, sort-of-clevr"),
        (["--mode", "none", "--preset", "sort-of-clevr", "--images", "1"], "mode must be one of query_pool"),
    ):
        assert cli.main(["vqa", *arguments]) == 2
        err = capsys.readouterr().err
        assert message in err
        assert err.count("\n") == 1
