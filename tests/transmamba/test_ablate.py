"""A grid of runs: its variants, its folders, how it goes on, and what it refuses."""

import dataclasses
import json

import pytest

pytest.importorskip("sklearn")
pytest.importorskip("transformers")
pytest.importorskip("matplotlib")

from transmamba.ablate import ablate, changed, prepare_grid, variants
from transmamba.config import TeacherConfig, identity, to_dict
from transmamba.distill import DistillConfig
from transmamba.tasks import load_images


@pytest.fixture(autouse=True)
def speed_is_not_measured(monkeypatch):
    monkeypatch.setattr("transmamba.adapt.samples_per_second", lambda model, inputs: 1.0)


class Trainings:
    """Notes which trainings begin anew; stops the last one that it is told to let begin."""

    def __init__(self, last=99):
        self.begun, self.last = [], last

    def start(self, stage, steps, done):
        if done < steps:
            self.begun.append(stage)
        if len(self.begun) > self.last:
            raise KeyboardInterrupt

    def step(self, loss):
        pass

    def epoch(self, row, reached):
        pass


def test_a_grid_goes_on_where_it_stopped(tiny):
    config, said = tiny(epochs=1), []
    only, seeds = ["data-50"], [3, 1]
    first = Trainings(last=3)
    with pytest.raises(KeyboardInterrupt):
        ablate(prepare_grid(config, only, seeds), first)
    assert first.begun == ["teacher", "distill", "scratch", "distill"]

    second = Trainings()
    grid = prepare_grid(config, only, seeds)
    content = ablate(grid, second, said.append)
    # The base of seed 3 was done; the teacher and scratch are trained once per seed.
    assert second.begun == ["distill", "teacher", "distill", "scratch", "distill"]
    assert [line.split()[:4] for line in said[:2]] == [
        ["[1/4]", "seed", "3", "base"],
        ["[2/4]", "seed", "3", "data-50"],
    ]
    assert {path.name for path in config.folder.iterdir()} == {
        "seed1", "seed3", "ablation.md", "ablation.json", "curve.png",
    }  # fmt: skip
    for seed in (1, 3):
        metrics = json.loads((config.folder / f"seed{seed}" / "data-50" / "metrics.json").read_text())
        assert (metrics["config"]["seed"], metrics["config"]["teacher"]["seed"]) == (seed, seed)
        cell = content["rows"]["data-50"]["seeds"][str(seed)]
        assert cell["reached"] == metrics["results"]["adapted"]["accuracy"]
        assert 2 * cell["samples"] == pytest.approx(content["rows"]["scratch"]["seeds"][str(seed)]["samples"], abs=10)

    third = Trainings()
    assert ablate(prepare_grid(config, only, seeds), third) == content
    assert third.begun == []


def test_scratch_as_a_distillation_is_scratch(tiny):
    grid = dataclasses.replace(prepare_grid(tiny(), ["scratch-50"], [0]), overwrite=True)
    grid.variants["scratch-50"]["fraction"] = 0.1  # what scratch sees here
    rows = ablate(grid)["rows"]
    assert rows["scratch-50"]["seeds"] == rows["scratch"]["seeds"]


def test_each_variant_changes_what_it_says(tiny):
    config = tiny()
    known = variants(config, load_images("digits"))
    flat = identity(to_dict(config))
    for name, changes in known.items():
        new = identity(to_dict(changed(config, changes)))
        differing = {key: value for key, value in new.items() if value != flat[key]}
        assert differing.items() <= changes.items(), name
        assert changes.items() <= new.items(), name
    assert known["steps-25"] == {"fraction": 0.025, "epochs": 8}
    assert known["early-half"] == {"subclone.early": 1}


def test_what_is_the_base_and_what_cannot_be_run(tiny):
    grid = prepare_grid(tiny(distill=DistillConfig(weighting="uniform")), ["uniform", "data-*", "mixer-vo"], [0])
    assert grid.same == ("data-100", "uniform")
    assert list(grid.variants) == ["base", "data-75", "data-50", "data-25"]
    assert "bias=True" in grid.left_out["mixer-vo"]


@pytest.mark.parametrize(
    ("only", "seeds", "options", "message"),
    [
        (["uniforms"], [0], {}, "unknown variant 'uniforms'; variants: base, data-100, "),
        ([], [], {}, "seeds must be different ones, at least one"),
        ([], [1, 1], {}, "seeds must be different ones, at least one"),
        ([], [-1], {}, "seed must be an integer of at least 0"),
        ([], [0], {"teacher": TeacherConfig(patch_size=9)}, "teacher.patch_size must be at most"),
    ],
)
def test_grids_that_are_refused(tiny, only, seeds, options, message):
    with pytest.raises(ValueError, match=message):
        prepare_grid(tiny(**options), only, seeds)
