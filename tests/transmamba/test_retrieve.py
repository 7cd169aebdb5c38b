"""The command as a user meets it, on clips of invented digits: train, stop and go on, measure, search, and be wrong."""

import json
import os
import shutil
import signal
import struct

import numpy as np
import pytest
import torch

from transmamba import cli
from transmamba.retrieve import PRESETS, Retriever, run
from transmamba.retrieve.teacher import build_tokenizer, normalisation
from transmamba.tasks.video import write_video
from transmamba.train import Interrupted

SIZES = ["d_model", "16", "depth", "1", "d_state", "4"]


def call(capsys, *arguments):
    code = cli.main(["retrieve", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture(scope="module")
def mnist(tmp_path_factory):
    """A folder like MNIST's, with two invented images of each digit."""
    folder = tmp_path_factory.mktemp("mnist")
    images = np.random.default_rng(0).integers(0, 256, (20, 28, 28), np.uint8)
    labels = np.arange(20, dtype=np.uint8) % 10
    for part in ("train", "t10k"):
        for name, values in (("images-idx3", images), ("labels-idx1", labels)):
            head = bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
            (folder / f"{part}-{name}-ubyte").write_bytes(head + values.tobytes())
    return folder


@pytest.fixture
def tiny(mnist, tmp_path, monkeypatch):
    """Options of a run that takes seconds; the current folder is the test's own."""
    for name in ("av", "tyro", "rich", "transformers", "matplotlib"):
        pytest.importorskip(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    towers = ["--video-options", *SIZES, "--text-options", *SIZES]
    teacher = ["--teacher.hidden-size", 16, "--teacher.heads", 2, "--teacher.layers", 1, "--teacher.text-layers", 1]
    trained = ["--epochs", 2, "--batch-size", 8, "--teacher.epochs", 1, "--teacher.batch-size", 8]
    clips = ["--data-dir", mnist, "--train-clips", 16, "--test-clips", 12, "--out-dir", "runs/a"]
    return [*clips, *towers, *teacher, *trained]


class PressAt:
    """Presses Ctrl-C in the given stage after the given step."""

    def __init__(self, stage, step):
        self.at, self.now = (stage, step), None

    def start(self, stage, steps, done):
        self.now = (stage, done)

    def step(self, loss):
        self.now = (self.now[0], self.now[1] + 1)
        if self.now == self.at:
            os.kill(os.getpid(), signal.SIGINT)

    def epoch(self, row, reached):
        pass


def test_a_run_from_start_to_search(capsys, tiny, tmp_path):
    code, out, err = call(capsys, *tiny)
    assert (code, err) == (0, "")
    folder = tmp_path / "runs" / "a"
    names = {"run.json", "metrics.json", "report.md", "curves.png", "frames.png", "subclone.md", "stages", "student"}
    assert {path.name for path in folder.iterdir()} == names
    metrics = json.loads((folder / "metrics.json").read_text())
    adapted, scratch = (metrics["results"][name] for name in ("adapted", "scratch"))
    assert adapted["steps"] == scratch["steps"] == 4
    assert metrics["data"]["test_videos"] == 12
    report = (folder / "report.md").read_text()
    assert f"| adapted | text to video | {adapted['R@1']:.1%} |" in report
    assert "| scratch | text to video |" in report

    assert call(capsys, *tiny)[1].startswith("runs/a is finished already")
    code, out, _ = call(capsys, "eval", "runs/a")
    assert code == 0
    assert f"{adapted['R@10']:.1%}" in out

    videos = tmp_path / "videos"
    shutil.copytree(tmp_path / "runs" / "clips" / "moving-mnist-16-12-seed0" / "test", videos)
    (videos / "broken.mp4").touch()
    write_video(videos / "short.mp4", np.zeros((2, 32, 32), np.uint8))
    code, out, _ = call(capsys, "search", "runs/a", videos, "a three moves left", "--top", 3)
    assert code == 0
    first, *lines = out.splitlines()
    assert first.startswith("2 of 14 videos could not be used; the first: ")
    found = [float(line.split()[0]) for line in lines]
    assert len(found) == 3
    assert found == sorted(found, reverse=True)

    for arguments, message in (
        (("runs/a", videos, " "), "text must not be empty"),
        (("runs/a", videos, "a", "--top", 0), "top must be at least 1, got 0"),
        (("runs/a", tmp_path / "x", "a"), "is not a folder of videos"),
        (("runs", videos, "a"), "a saved student is a folder with"),
    ):
        code, out, err = call(capsys, "search", *arguments)
        assert (code, out) == (2, "")
        assert message in err


def test_a_stopped_run_goes_on_bit_for_bit(tiny, capsys, tmp_path):
    from transmamba.commands.parsing import parse_run
    from transmamba.commands.retrieve import Options

    def go(name, watcher=None):
        options = parse_run([*map(str, tiny), "--out-dir", name, "--no-scratch"], "retrieve", Options, PRESETS)
        return run.retrieve(run.prepare(options.run), watcher)

    whole = go("one/a")
    with pytest.raises(Interrupted):
        go("two/a", PressAt("teacher", 1))
    with pytest.raises(Interrupted):
        go("two/a", PressAt("distill", 3))
    again = go("two/a")
    assert again["teacher"]["weights"] == whole["teacher"]["weights"]
    one, two = (Retriever.load(tmp_path / name / "a").model.state_dict() for name in ("one", "two"))
    assert all(torch.equal(two[name], tensor) for name, tensor in one.items())
    for result in (whole, again):
        for row in result["results"]["adapted"]["history"]:
            del row["epoch"]
    assert again["results"]["adapted"]["history"] == whole["results"]["adapted"]["history"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data-dir", "nowhere"], "train-images-idx3-ubyte[.gz] is missing: give the folder of MNIST's four idx"),
        (["--data", "msr-vtt", "--data-dir", "nowhere"], "nowhere is not a folder with videos and captions"),
        (["--data", "coco"], "data must be one of moving-mnist, table, msr-vtt, didemo, got 'coco'"),
        (["--preset", "movin-mnist"], "did you mean 'moving-mnist'?"),
        (["--batch-size", "1"], "batch_size must be at least 2"),
        (["--channels", "2"], "channels must be 1 or 3, got 2"),
        (["--train-clips", "64000"], "clips must be from 1 to 64000"),
        (["--student", "transmamba_vim_micro"], "has no option d_embed"),
        (["--video-options", "num_frames", "3"], "video_options: num_frames must be 6"),
        (["--teacher.path", "nowhere/at/all"], "no tokenizer can be loaded from 'nowhere/at/all'"),
        (["--teacher.patch-size", "33"], "teacher.patch_size must be at most image_size 32, got 33"),
        (["--teacher.frames", "4"], "teacher.frames must divide frames 6, got 4"),
        (["--subclone.importance", "stability"], "importance 'stability' compares"),
    ],
)
def test_bad_input_is_one_line_before_any_work(capsys, tiny, tmp_path, options, message):
    code, out, err = call(capsys, *tiny, *options)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_videos_that_are_all_broken(capsys, tiny, tmp_path):
    for split in ("train", "test"):
        (tmp_path / f"{split}.mp4").touch()
        (tmp_path / f"{split}.csv").write_text(f"video,caption\n{split}.mp4,nothing\n")
    code, _, err = call(capsys, *tiny, "--data", "table", "--data-dir", tmp_path)
    assert code == 2
    assert "none of the train videos can be used" in err
    assert "train.mp4 is empty" in err


def test_several_processes_are_refused(capsys, tiny, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, _, err = call(capsys, *tiny)
    assert code == 2
    assert "retrieve runs in one process" in err


def test_tokens_and_colours(tmp_path):
    pytest.importorskip("transformers")
    tokenizer = build_tokenizer(PRESETS["moving-mnist"].teacher, ["A three moves left, then", "a two"])
    ids = tokenizer(["a two", "A three flies"], padding=True)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids[0]) == ["<s>", "a", "two", "</s>", "<pad>"]
    assert tokenizer.convert_ids_to_tokens(ids[1]) == ["<s>", "a", "three", "<unk>", "</s>"]
    assert tokenizer.eos_token_id != 2  # which CLIPModel takes for something else
    assert normalisation(None) == ([0.5], [0.5])
    (tmp_path / "preprocessor_config.json").write_text('{"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 2, 3]}')
    assert normalisation(str(tmp_path)) == ([0.1, 0.2, 0.3], [1, 2, 3])
