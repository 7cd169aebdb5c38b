"""A whole run in small: its stages, what it leaves, how it goes on, and what it refuses."""

import dataclasses
import errno
import json
import os
import signal

import pytest
import torch

pytest.importorskip("sklearn")
pytest.importorskip("transformers")
pytest.importorskip("matplotlib")

from transmamba.adapt import adapt, prepare
from transmamba.checkpoint import CheckpointError, load_checkpoint, read_manifest
from transmamba.config import TeacherConfig
from transmamba.distill import DistillConfig, SubcloneConfig
from transmamba.interrupt import Interrupted
from transmamba.models import create_model, load_pretrained
from transmamba.tasks import accuracy, load_images


class PressAt:
    """Presses Ctrl-C in the given stage after the given step."""

    def __init__(self, stage, step):
        self.at, self.stage, self.steps = (stage, step), None, 0

    def start(self, stage, steps, done):
        self.stage, self.steps = stage, done

    def step(self, loss):
        self.steps += 1
        if (self.stage, self.steps) == self.at:
            os.kill(os.getpid(), signal.SIGINT)

    def epoch(self, row, reached):
        pass


def run(config, watcher=None, **options):
    return adapt(prepare(config, **options), watcher)


def test_a_run_leaves_what_it_says(tiny):
    config, said = tiny(), []
    metrics = adapt(prepare(config), say=said.append)
    folder = config.folder
    names = {"run.json", "metrics.json", "report.md", "curves.png", "subclone.md", "stages", "student"}
    assert {path.name for path in folder.iterdir()} == names
    assert metrics == json.loads((folder / "metrics.json").read_text())
    assert [line.split()[0] for line in said] == ["teacher", "subclone", "adapted", "scratch"]
    student = load_pretrained(folder / "student")
    result = metrics["results"]["adapted"]
    assert accuracy(student, load_images("digits").test) == result["accuracy"] == result["history"][-1]["accuracy"]
    assert result["steps"] == metrics["results"]["scratch"]["steps"] == 2 * -(-result["train_samples"] // 32)
    assert result["train_samples"] == 141
    assert metrics["coverage"] > 0
    assert "| `head.weight` |" in (folder / "subclone.md").read_text()
    manifest = read_manifest(folder / "stages", "distill")
    assert manifest.parent == "init"
    assert manifest.parent_checkpoint == read_manifest(folder / "stages", "init").checkpoint
    assert manifest.teacher == metrics["teacher"]["weights"]


@pytest.mark.parametrize(
    ("student", "options"),
    [
        # With batch norms, whose statistics belong to the state as well.
        ("transmamba_plainmamba_micro", {"d_model": 16, "depth": 2, "stem": "conv", "dwconv_layers": [0]}),
        ("transmamba_vmamba_micro", {"dims": [12, 20], "depths": [1, 1]}),
    ],
)
def test_other_students(tiny, student, options):
    config = tiny(student=student, student_options=options, epochs=1, scratch=False)
    metrics = run(config)
    saved = load_pretrained(config.folder / "student")
    assert saved.name == student
    assert accuracy(saved, load_images("digits").test) == metrics["results"]["adapted"]["accuracy"]


def test_mixers_that_start_as_an_attention_with_scans_of_another_mamba(tiny, tmp_path):
    first = tiny(epochs=1, scratch=False, student_options={"d_model": 16, "depth": 2, "d_state": 4, "bias": True})
    run(first)
    second = dataclasses.replace(
        first,
        out_dir=str(tmp_path / "runs" / "b"),
        subclone=SubcloneConfig(mixer="qkvo", ssm_from=str(first.folder / "student")),
    )
    assert run(second)["coverage"] > run(first)["coverage"]
    report = (second.folder / "subclone.md").read_text()
    assert "K to B and Q to C through x by least squares" in report
    assert "`ssm_from:layers.0.mixer.A_log`" in report


def test_scratch_starts_from_the_students_own_seed(tiny):
    """The cloned student keeps its own mixers; those are the scratch baseline's before training, up to their scale."""
    config = tiny(epochs=1, scratch=False, subclone=SubcloneConfig(mixer_scale=False))
    run(config)
    init = load_checkpoint(config.folder / "stages" / "init.pt")["model"]
    torch.manual_seed(config.seed)
    own = create_model(config.student, **config.student_options).state_dict()
    assert torch.equal(init["student.layers.0.mixer.in_proj.weight"], own["layers.0.mixer.in_proj.weight"])
    assert not torch.equal(init["student.layers.0.mlp.fc1.weight"], own["layers.0.mlp.fc1.weight"])


def test_running_twice_is_finished_and_changes_nothing(tiny):
    config = tiny(scratch=False)
    metrics = run(config)
    before = {path: path.stat().st_mtime_ns for path in config.folder.rglob("*.pt")}
    again = prepare(config)
    assert again.finished == metrics == adapt(again)
    assert before == {path: path.stat().st_mtime_ns for path in config.folder.rglob("*.pt")}
    assert metrics["results"]["scratch"] is None


@pytest.mark.parametrize(("stage", "step"), [("teacher", 3), ("warmup", 2), ("distill", 5), ("scratch", 10)])
def test_interrupted_and_run_again_is_the_same(tiny, tmp_path, stage, step):
    config = tiny(warmup_epochs=1)
    whole = run(dataclasses.replace(config, out_dir=str(tmp_path / "whole" / "a")))
    with pytest.raises(Interrupted, match=f"stopped {stage} after step {step}"):
        run(config, PressAt(stage, step))
    parts = run(config)
    for name in ("scratch", "adapted"):
        assert parts["results"][name]["history"] == whole["results"][name]["history"]
    assert parts["teacher"]["weights"] == whole["teacher"]["weights"]
    students = [
        load_pretrained(folder / "student").state_dict() for folder in (config.folder, tmp_path / "whole" / "a")
    ]
    assert all(torch.equal(students[0][name], students[1][name]) for name in students[0])


def test_warm_up_trains_mixers_and_calibration_alone(tiny):
    config = tiny(warmup_epochs=1, scratch=False)
    result = run(config)["results"]["adapted"]
    assert [row["epoch"] for row in result["history"]] == [1, 2]
    assert [row["step"] for row in result["history"]] == [5, 10]
    assert (result["epochs"], result["steps"]) == (2, 10)
    before, after = (load_checkpoint(config.folder / "stages" / f"{stage}.pt")["model"] for stage in ("init", "warmup"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {name.split(".")[0] for name in changed} == {"student", "calibration", "layer_weights"}
    mixers = {name for name in before if ".mixer." in name}
    assert {name for name in changed if name.startswith("student.")} == mixers
    assert read_manifest(config.folder / "stages", "distill").parent == "warmup"


def test_a_stage_refuses_a_wrong_parent(tiny):
    config = tiny(scratch=False)
    run(config)
    stages = config.folder / "stages"
    (config.folder / "metrics.json").unlink()
    (stages / "distill.json").unlink()
    manifest = json.loads((stages / "init.json").read_text())
    (stages / "init.json").write_text(json.dumps({**manifest, "teacher": "0" * 64}))
    with pytest.raises(CheckpointError, match="start from stage 'init'.*expected teacher .*, found 000000000000"):
        run(config)


def test_a_full_disk_stops_and_the_run_goes_on_later(tiny, monkeypatch):
    config = tiny(scratch=False)

    class FullDisk(PressAt):
        def epoch(self, row, reached):
            if self.stage == "distill":
                patch.setattr("os.fsync", full)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match=r"distill\.pt: No space left"):
        run(config, FullDisk("", 0))
    assert run(config)["results"]["adapted"]["epochs"] == 2


def test_another_config_is_refused_and_overwrite_replaces_it(tiny):
    config = tiny(scratch=False)
    run(config)
    other = dataclasses.replace(config, seed=1, distill=DistillConfig(alpha=0.1))
    with pytest.raises(FileExistsError, match=r"seed was 0 and is now 1; distill\.alpha .*--out-dir, or --overwrite"):
        prepare(other)
    (config.folder / "notes.txt").write_text("mine")
    assert run(other, overwrite=True)["config"]["seed"] == 1
    assert (config.folder / "notes.txt").read_text() == "mine"


def test_a_folder_that_is_no_run_is_left_alone(tiny):
    config = tiny()
    config.folder.mkdir(parents=True)
    (config.folder / "thesis.tex").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(FileExistsError, match="no run of transmamba"):
            prepare(config, overwrite)
    assert [path.name for path in config.folder.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"student": "vim"}, "unknown model 'vim'"),
        ({"student": "transmamba_videomamba_micro"}, "does not take images one at a time"),
        ({"student_options": {"image_size": 16}}, "image_size must be the data's 8, got 16"),
        ({"data": "mnist"}, "unknown data set 'mnist'"),
        ({"device": "abacus"}, "device 'abacus' cannot be used"),
        ({"subclone": SubcloneConfig(layer_map=[0])}, "layer_map must have one entry for each of 2"),
        ({"subclone": SubcloneConfig(importance="stability")}, "--teacher.fine-tune"),
        ({"subclone": SubcloneConfig(mixer="vo")}, "student transmamba_vim_micro, for a gate of 1: build it with bias"),
        ({"distill": DistillConfig(calibration="none"), "student_options": {"d_model": 8}}, "equal widths"),
        ({"teacher": TeacherConfig(patch_size=9)}, "teacher.patch_size must be at most"),
    ],
)
def test_options_that_do_not_fit_are_refused_before_work(tiny, options, message):
    config = tiny(**options)
    with pytest.raises(ValueError, match=message):
        prepare(config)
    assert not config.folder.exists()
