"""Options of a run: presets, files, checks, and what makes two runs the same."""

import dataclasses
import json
from pathlib import Path

import pytest

from transmamba.config import (
    PRESETS,
    OptimConfig,
    RunConfig,
    TeacherConfig,
    differences,
    digest,
    identity,
    preset,
    to_dict,
)
from transmamba.config_file import read_config


def test_presets():
    assert list(PRESETS) == ["digits", "fashion-mnist", "cifar10", "smollm2-enwik8", "minilm-enwik8"]
    assert [config.data for config in PRESETS.values()] == [*list(PRESETS)[:3], "text", "sentences"]
    assert preset("digits").folder == Path("runs/digits-seed0")
    assert dataclasses.replace(preset("digits"), seed=4, out_dir="x/y").folder == Path("x/y")
    with pytest.raises(
        ValueError, match=r"'digit' \(did you mean 'digits'\?\); presets: digits, fashion-mnist, cifar10"
    ):
        preset("digit")


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (RunConfig, {"epochs": 0}),
        (RunConfig, {"epochs": 2.5}),
        (RunConfig, {"epochs": True}),
        (RunConfig, {"batch_size": 0}),
        (RunConfig, {"accumulate": 0}),
        (RunConfig, {"accumulate": 65}),
        (RunConfig, {"precision": "float16"}),
        (RunConfig, {"seed": -1}),
        (RunConfig, {"shift": -1}),
        (RunConfig, {"threads": 0}),
        (RunConfig, {"image_size": 0}),
        (RunConfig, {"fraction": 0.0}),
        (RunConfig, {"fraction": 1.5}),
        (RunConfig, {"scratch_fraction": float("nan")}),
        (RunConfig, {"warmup_epochs": 20}),
        (OptimConfig, {"learning_rate": 0.0}),
        (OptimConfig, {"learning_rate": float("nan")}),
        (OptimConfig, {"weight_decay": -0.1}),
        (OptimConfig, {"grad_clip": float("inf")}),
        (OptimConfig, {"warmup": 1.1}),
        (OptimConfig, {"label_smoothing": 1.0}),
        (OptimConfig, {"ema": 1.0}),
        (TeacherConfig, {"epochs": 0}),
        (TeacherConfig, {"heads": 3}),
        (TeacherConfig, {"fine_tune": True}),
        (TeacherConfig, {"mlp_ratio": 0.0}),
    ],
)
def test_values_out_of_range_are_named(kind, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        kind(**options)


def test_identity_leaves_out_where_and_how_fast():
    first = RunConfig(student_options={"depth": 2})
    second = dataclasses.replace(first, out_dir="elsewhere", threads=7, data_dir="/data", device="cuda")
    assert identity(to_dict(first)) == identity(to_dict(second))
    assert identity(to_dict(first))["student_options"] == {"depth": 2}
    third = dataclasses.replace(first, seed=3, teacher=TeacherConfig(optim=OptimConfig(warmup=0.5)))
    assert differences(identity(to_dict(first)), identity(to_dict(third))) == [
        "seed was 0 and is now 3",
        "teacher.optim.warmup was 0.1 and is now 0.5",
    ]
    assert digest(identity(to_dict(first))) != digest(identity(to_dict(third)))
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})


def test_files_are_read_as_yaml_or_json(tmp_path):
    pytest.importorskip("yaml")
    content = {"preset": "digits", "epochs": 3, "distill": {"alpha": 0.1}, "student_options": {"depth": 2}}
    (tmp_path / "a.json").write_text(json.dumps(content))
    (tmp_path / "a.yaml").write_text("preset: digits\nepochs: 3\ndistill: {alpha: 0.1}\nstudent_options:\n  depth: 2\n")
    assert read_config(tmp_path / "a.json") == read_config(tmp_path / "a.yaml") == content
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert read_config(tmp_path / "empty.yaml") == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"epoch": 3}', r"unknown option 'epoch' \(did you mean 'epochs'\?\)"),
        ('{"distill": {"alhpa": 3}}', r"unknown option 'distill.alhpa' \(did you mean 'distill.alpha'\?\)"),
        ('{"teacher": {"optim": {"lr_": 3}}}', "unknown option 'teacher.optim.lr_'"),
        ('{"distill": 3}', "distill must be a mapping"),
        ("[1]", "must hold a mapping of options, got list"),
        ("{", "cannot be read"),
    ],
)
def test_wrong_files(tmp_path, text, message):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=rf"a\.json.*{message}"):
        read_config(tmp_path / "a.json")


def test_missing_and_undecodable_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.yaml is missing"):
        read_config(tmp_path / "nowhere.yaml")
    (tmp_path / "a.yaml").write_bytes(b"\xff\xfe\x00\x01: [")
    with pytest.raises(ValueError, match="cannot be read"):
        read_config(tmp_path / "a.yaml")


def test_a_folder_of_ones_own_says_which_data_it_is():
    for data, same in (("fashion-mnist", True), ("imagefolder", False)):
        a, b = (identity(to_dict(RunConfig(data=data, data_dir=folder))) for folder in ("a", "b"))
        assert (a == b) == same
