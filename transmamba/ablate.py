"""A grid of runs: one run changed in one thing at a time, each change over the same seeds."""

from __future__ import annotations

import dataclasses
import fnmatch
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transmamba.ablation_report import SHARES, summarise, write
from transmamba.adapt import Run, Say, adapt, prepare
from transmamba.config import RunConfig, identity, to_dict
from transmamba.distill.calibration import MODES
from transmamba.models import create_model
from transmamba.tasks import Task, load_task
from transmamba.train import TrainingError, Watcher

BASE = "base"
Changes = dict[str, Any]  # of a RunConfig's fields, nested ones as "distill.alpha"

# What scratch does, as a distillation: the same weights at the start, the same order, cross entropy alone.
_SCRATCH: Changes = {
    "warmup_epochs": 0,
    "subclone.weights": False,
    "subclone.mixer": "none",
    "subclone.ssm_from": None,
    "subclone.mixer_scale": False,
    "distill.weighting": "adaptive",
    "distill.alpha": 0.0,
    "distill.beta": 1.0,
    "distill.kappa": 0.0,
}


@dataclasses.dataclass(frozen=True)
class Grid:
    """Variants and seeds whose options were found good; see :func:`prepare_grid`.

    Attributes:
        config, task: The base run and its data.
        seeds: Of teacher, student and order of the data alike, so that two variants of a seed differ in one thing.
        variants: Changes by name, the base's first, which has none.
        same: Names of variants that are the base itself.
        left_out: Names of variants that cannot be run here, with the reason.
        overwrite: Whether each run replaces what its folder holds.
    """

    config: RunConfig
    task: Task
    seeds: tuple[int, ...]
    variants: dict[str, Changes]
    same: tuple[str, ...]
    left_out: dict[str, str]
    overwrite: bool = False

    @property
    def folder(self) -> Path:
        """Folder of the grid; its runs lie in ``seed<k>/<variant>``, beside the teacher of their seed."""
        return Path(self.config.out_dir) if self.config.out_dir else Path("runs") / f"ablate-{self.config.data}"

    def cell(self, variant: str, seed: int) -> RunConfig:
        """The run of ``variant`` and ``seed``; the base's trains the scratch baseline for all variants."""
        teacher = dataclasses.replace(self.config.teacher, seed=seed)
        folder = str(self.folder / f"seed{seed}" / variant)
        cell = dataclasses.replace(self.config, seed=seed, teacher=teacher, scratch=variant == BASE, out_dir=folder)
        return changed(cell, self.variants[variant])

    def prepare(self, variant: str, seed: int) -> Run:
        """As :func:`transmamba.adapt.prepare`."""
        return prepare(self.cell(variant, seed), self.overwrite, self.task)


def variants(config: RunConfig, task: Task) -> dict[str, Changes]:
    """All variants of ``config``: less data at equal epochs and at equal steps, and each part of the method changed."""
    shares = {share: {"fraction": config.scratch_fraction * share / 100} for share in SHARES}
    less = {share: change for share, change in shares.items() if share < 100}
    options = {**config.student_options, **task.student_options}
    depth: int = create_model(config.student, **options).config.depth  # type: ignore[union-attr, assignment]
    method: dict[str, Changes] = {f"calibration-{mode}": {"distill.calibration": mode} for mode in MODES}
    method |= {
        "subclone-none": {"subclone.weights": False, "subclone.mixer_scale": False},
        "early-half": {"subclone.early": depth // 2},
        "early-all": {"subclone.early": depth},
        "mixer-vo": {"subclone.mixer": "vo"},
        "mixer-qkvo": {"subclone.mixer": "qkvo"},
        "uniform": {"distill.weighting": "uniform"},
        "not-detached": {"distill.detach": False},
        "forward-only": {"distill.directions": "forward"},
        "merged-only": {"distill.directions": "merged"},
        "kd-only": {"distill.alpha": 0.0},
        "no-kd": {"distill.kappa": 0.0},
        "official": {"distill.weighting": "official"},
    }
    return {
        BASE: {},
        **{f"data-{share}": change for share, change in shares.items()},
        **{f"steps-{s}": {**change, "epochs": round(config.epochs * 100 / s)} for s, change in less.items()},
        **{f"scratch-{s}": {**change, **_SCRATCH} for s, change in less.items()},
        **method,
    }


def changed(config: RunConfig, changes: Changes) -> RunConfig:
    """``config`` with ``changes`` made.

    Raises:
        ValueError, TypeError: A value is wrong, or there is no such field.
    """
    for name, value in changes.items():
        part, _, field = name.rpartition(".")
        new = dataclasses.replace(getattr(config, part), **{field: value}) if part else value
        config = dataclasses.replace(config, **{part or field: new})
    return config


def prepare_grid(
    config: RunConfig, only: Sequence[str] = (), seeds: Sequence[int] = range(5), overwrite: bool = False
) -> Grid:
    """Choose variants and check each as :func:`transmamba.adapt.prepare` does, before any work begins.

    Args:
        config: The base run; its seed is not used.
        only: Names of variants or patterns such as ``"data-*"``; all without any. The base is always among them.
        seeds: What is repeated.
        overwrite: Remove what earlier runs left in the folders.

    Raises:
        ValueError, TypeError, FileNotFoundError, ImportError, FileExistsError: No variant is called so, a seed is
            given twice or not at all, or the base cannot be run.
    """
    task = load_task(config)
    known = variants(config, task)
    for pattern in only:
        if not fnmatch.filter(known, pattern):
            raise ValueError(f"unknown variant {pattern!r}; variants: {', '.join(known)}")
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds must be different ones, at least one, got {list(seeds)}")
    chosen = {
        name: changes
        for name, changes in known.items()
        if not only or name == BASE or any(fnmatch.fnmatchcase(name, pattern) for pattern in only)
    }
    base = identity(to_dict(config))
    same = tuple(n for n, c in chosen.items() if n != BASE and identity(to_dict(changed(config, c))) == base)
    differing = {name: changes for name, changes in chosen.items() if name not in same}
    grid = Grid(config, task, tuple(seeds), differing, same, {}, overwrite)
    for name in list(grid.variants):
        try:
            grid.prepare(name, seeds[0])
        except (ValueError, TypeError) as error:
            if name == BASE:
                raise
            grid.left_out[name] = str(error)
            del grid.variants[name]
    return grid


def ablate(grid: Grid, watcher: Watcher | None = None, say: Say = lambda text: None) -> dict[str, Any]:
    """Do what is left of the runs of ``grid``, and write what they say into its folder after each seed.

    Args:
        watcher: Told about each training's progress.
        say: Told in one line what each run gave, and how long the others will take.

    Returns:
        The content of ``ablation.json``.

    Raises:
        Interrupted, CheckpointError, OSError: As of :func:`transmamba.adapt.adapt`. A training that fails is told
            and left out.
    """
    cells = [(seed, name) for seed in grid.seeds for name in grid.variants]
    work = [_work(grid.cell(name, seed)) for seed, name in cells]
    metrics: dict[str, dict[int, dict[str, Any]]] = {name: {} for name in grid.variants}
    content: dict[str, Any] = {}
    spent, worked = 0.0, 0.0
    for i, (seed, name) in enumerate(cells):
        began = time.monotonic()
        run = grid.prepare(name, seed)
        try:
            metrics[name][seed] = adapt(run, watcher)
            metric = run.task.metric
            reached = metric.text(metrics[name][seed]["results"]["adapted"][metric.name])
        except TrainingError as error:
            reached = f"failed: {error}"
        if run.finished is None:
            spent, worked = spent + time.monotonic() - began, worked + work[i]
        left = f"   about {_duration(spent / worked * sum(work[i + 1 :]))} left" if worked else ""
        say(f"[{i + 1}/{len(cells)}] seed {seed}  {name:<16} {reached}{left}")
        if name == list(grid.variants)[-1]:
            content = summarise(grid, metrics)
            write(grid.folder, content)
    return content


def _work(config: RunConfig) -> float:
    """Time that a run takes, in a unit of no name: passes over the data, of which scratch's cost about half."""
    return config.epochs * (config.fraction + 0.5 * config.scratch * config.scratch_fraction)


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
