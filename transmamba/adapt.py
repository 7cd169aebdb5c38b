"""One run from start to end: teacher, initialisation, optional warm-up, distillation, scratch baseline."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from transmamba import processes
from transmamba.checkpoint import (
    Manifest,
    Stages,
    read_manifest,
    require_stage,
    save_checkpoint,
    trained_weights,
    versions,
)
from transmamba.config import RunConfig, digest, identity, to_dict
from transmamba.distill import DistillConfig, Distiller, check_mixers, layer_map, subclone
from transmamba.files import write_text
from transmamba.models import create_model, load_pretrained, save_pretrained
from transmamba.report import samples_per_second, write_report
from transmamba.run_folder import METRICS_FORMAT, STAGES, STUDENT, SUBCLONE, TENSORBOARD, claim
from transmamba.tasks import Metric, Task, load_task
from transmamba.teach import Taught, build_teacher, teach
from transmamba.tensorboard import TensorBoard, check_tensorboard
from transmamba.train import Plan, Trainer, Watcher, plain

Say = Callable[[str], None]


@dataclasses.dataclass
class Run:
    """A run whose options were found good; see :func:`prepare`.

    Attributes:
        config, task: What was asked for.
        folder: It exists, and belongs to this run.
        finished: The content of its metrics file when there is nothing left to do, else None.
    """

    config: RunConfig
    task: Task
    folder: Path
    finished: dict[str, Any] | None


def prepare(config: RunConfig, overwrite: bool = False, task: Task | None = None) -> Run:
    """Check everything that can be checked before work begins, and make the run's folder.

    Args:
        overwrite: Remove what an earlier run left in the folder.
        task: The data, where they are loaded already.

    Raises:
        ValueError, TypeError, FileNotFoundError, ImportError: An option is wrong, does not fit the others, or needs
            what is not there.
        FileExistsError: The folder holds another run, or something else; the message says what differs.
    """
    processes.engine(usable_device(config.device).type)
    if config.tensorboard:
        check_tensorboard()
    task = load_task(config) if task is None else task
    student, teacher = _create_student(config, task), build_teacher(config, task)
    Distiller(student, teacher, config.distill, criterion=task.criterion)
    layer_map(config.subclone.layer_map, student.config.depth, teacher.depth)  # type: ignore[union-attr, arg-type]
    check_mixers(student, config.subclone.mixer)
    if config.subclone.ssm_from is not None:
        load_pretrained(config.subclone.ssm_from)
    if config.subclone.importance == "stability" and not config.teacher.fine_tune:
        raise ValueError("importance 'stability' compares a teacher before and after: give --teacher.fine-tune")
    return Run(config, task, config.folder, claim(config, overwrite))


def adapt(run: Run, watcher: Watcher | None = None, say: Say = lambda text: None) -> dict[str, Any]:
    """Do what is left of ``run`` and return its metrics, which are also in its folder.

    Args:
        watcher: Told about each training's progress.
        say: Told in one line what each part gave.

    Raises:
        TrainingError, Interrupted, CheckpointError, OSError: As of :class:`transmamba.train.Trainer`.
    """
    config, task, folder = run.config, run.task, run.folder
    if run.finished is not None:
        return run.finished
    if config.tensorboard:
        watcher = TensorBoard(folder / TENSORBOARD, watcher)
    taught = teach(config, task, watcher=watcher)
    say(f"teacher   {_figure(task.metric, taught.reached)}   {taught.origin}, {taught.folder}")
    adaptation = _Adaptation(config, task, folder / STAGES, taught, watcher)
    coverage = adaptation.initialise(folder / SUBCLONE)
    say(f"subclone  {coverage:7.2%}   of the student's parameters come from the teacher")
    warmed = adaptation.warm_up() if config.warmup_epochs else None
    if warmed is not None:
        say(f"warm-up   {_reached(task, warmed)}, mixers and calibration")
    student, adapted = adaptation.distill("init" if warmed is None else "warmup")
    adapted = adapted if warmed is None else _joined(warmed, adapted)
    say(f"adapted   {_reached(task, adapted)}")
    scratch = _scratch(config, task, folder / STAGES, watcher) if config.scratch else None
    if scratch:
        say(f"scratch   {_reached(task, scratch)}")
    save_pretrained(student, folder / STUDENT)
    with processes.one_writer() as writes:
        if writes:
            task.keep(folder / STUDENT)
    results: dict[str, Any] = {
        "teacher": _row(taught.teacher.model, task, **{task.metric.name: taught.reached}, seconds=taught.seconds),
        "scratch": scratch,
        "adapted": _row(student, task, **adapted),
    }
    if scratch is not None:
        # The same network: measured once, so that no difference appears where there is none.
        shared = {name: results["adapted"][name] for name in ("parameters", "samples_per_second")}
        results["scratch"] = {**scratch, **shared}
    metrics = {
        "format": METRICS_FORMAT,
        "config": to_dict(config),
        "data": {"train": len(task.train), "test": len(task.test), "unit": task.unit},
        "metric": dataclasses.asdict(task.metric),
        "teacher": {"origin": taught.origin, "folder": taught.folder, "weights": taught.weights_hash},
        "coverage": coverage,
        "results": results,
        "versions": versions(),
    }
    write_report(folder, metrics)
    return metrics


class _Adaptation:
    """The stages that lead from a teacher to a student, each started from the checkpoint of the one before."""

    def __init__(self, config: RunConfig, task: Task, folder: Path, taught: Taught, watcher: Watcher | None):
        self.config, self.task, self.folder, self.taught, self.watcher = config, task, folder, taught, watcher
        self.train = task.subset(config.fraction, config.seed)
        self.identity = identity(to_dict(config))
        self.stages = Stages(folder, self.identity, taught.weights_hash)
        self.device = torch.device(config.device)

    def initialise(self, report: Path) -> float:
        """Stage ``init``: clone the student and set up the calibration; return the cloned part of its parameters."""
        if not self.stages.finished("init"):
            student = _create_student(self.config, self.task).to(self.device)
            inputs = [batch.to(self.device) for batch in self.task.inputs(self.train, 512)]
            cloned = subclone(student, self.taught.teacher, self.config.subclone, inputs, self.taught.before)
            distiller = Distiller(student, self.taught.teacher, self.config.distill, cloned.channels)
            write_text(report, cloned.to_markdown())
            state = {"model": distiller.state_dict(), "channels": cloned.channels, "coverage": cloned.coverage}
            checkpoint = save_checkpoint(self.folder / "init.pt", state)
            self.stages.finish("init", checkpoint, "teacher", self.taught.weights_hash)
        return self.stages.require("init", "teacher", "distill")[1]["coverage"]

    def warm_up(self) -> dict[str, Any]:
        """Stage ``warmup``: mixers, stem and calibration alone, by the feature loss alone."""
        options = dataclasses.replace(self.config.distill, alpha=1.0, beta=0.0, kappa=0.0, alpha_decay=0.0)
        return self._train("warmup", "init", options, self.config.warmup_epochs, mixers_only=True)[1]

    def distill(self, parent: str) -> tuple[nn.Module, dict[str, Any]]:
        """Stage ``distill``: everything, by the whole loss; return the student and what its training gave."""
        epochs = self.config.epochs - self.config.warmup_epochs
        distiller, trained = self._train("distill", parent, self.config.distill, epochs)
        return distiller.student.eval(), trained

    def _train(
        self, stage: str, parent: str, options: DistillConfig, epochs: int, mixers_only: bool = False
    ) -> tuple[Distiller, dict[str, Any]]:
        grandparent = "init" if parent == "warmup" else "teacher"
        before, start = self.stages.require(parent, grandparent, stage)
        if not self.stages.finished(stage):
            distiller = self._distiller(options, start)
            if mixers_only:
                roles = distiller.student.clone_roles()  # type: ignore[operator]
                for name, parameter in distiller.student.named_parameters():
                    parameter.requires_grad_(roles[name].is_fresh)
            origin = digest([self.identity, before.checkpoint, self.taught.weights_hash])
            plan = _plan(self.config, self.task, stage, self.train, epochs, origin)
            loss, measure = partial(self.task.distill, distiller), partial(self.task.measure, distiller.student)
            trainer = Trainer(plan, distiller, loss, measure, self.folder / f"{stage}.pt", self.watcher)
            self.stages.finish(stage, trainer.run(), parent, before.checkpoint)
        state = self.stages.require(stage, parent, "report")[1]
        return self._distiller(options, state), _trained(self.task, state, len(self.train))

    def _distiller(self, options: DistillConfig, state: dict[str, Any]) -> Distiller:
        """A student beside its teacher, with the weights of a stage."""
        channels = self.stages.require("init", "teacher", "distill")[1]["channels"]
        student = _create_student(self.config, self.task)
        distiller = Distiller(student, self.taught.teacher, options, channels, self.task.criterion).to(self.device)
        distiller.load_state_dict(trained_weights(state))
        return distiller


def _scratch(config: RunConfig, task: Task, folder: Path, watcher: Watcher | None) -> dict[str, Any]:
    """The baseline: the adapted student's twin before cloning, by the task's loss alone, on the same schedule."""
    train, flat = task.subset(config.scratch_fraction, config.seed), identity(to_dict(config))
    if read_manifest(folder, "scratch") is None:
        student = _create_student(config, task).to(config.device)
        plan = _plan(config, task, "scratch", train, config.epochs, digest(flat))
        loss, measure = plain(partial(task.loss, student)), partial(task.measure, student)
        checkpoint = Trainer(plan, student, loss, measure, folder / "scratch.pt", watcher).run()
        Manifest("scratch", checkpoint or "", flat, versions=versions()).write(folder)
    return _trained(task, require_stage(folder, "scratch", needed_by="report", config=flat)[1], len(train))


def _plan(config: RunConfig, task: Task, stage: str, train: Any, epochs: int, origin: str) -> Plan:
    return Plan(
        stage=stage,
        train=train,
        epochs=epochs,
        batch_size=config.batch_size,
        seed=config.seed,
        optim=config.optim,
        origin=origin,
        accumulate=config.accumulate,
        precision=config.precision,
        augment=lambda batch: task.augment(batch, config),
        metric=task.metric,
    )


def _create_student(config: RunConfig, task: Task) -> nn.Module:
    """The student of ``config`` at its own initialisation, the same for the same seed."""
    fits = task.student_options
    for name, value in fits.items():
        if config.student_options.get(name, value) != value:
            raise ValueError(f"student_options: {name} must be the data's {value}, got {config.student_options[name]}")
    torch.manual_seed(config.seed)
    student = create_model(config.student, **{**config.student_options, **fits})
    task.check_student(student)
    return student


def _trained(task: Task, state: dict[str, Any], samples: int) -> dict[str, Any]:
    history, metric = state["history"], task.metric.name
    return {
        metric: history[-1][metric],
        "steps": state["steps"],
        "epochs": history[-1]["epoch"],
        "train_samples": samples,
        "seconds": state["seconds"],
        "history": history,
    }


def _joined(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Two trainings one after the other as one: the steps of the first count as well."""
    later = [
        {**row, "step": row["step"] + first["steps"], "epoch": row["epoch"] + first["epochs"]}
        for row in second["history"]
    ]
    sums = {name: first[name] + second[name] for name in ("steps", "epochs", "seconds")}
    return {**second, **sums, "history": first["history"] + later}


def _row(model: nn.Module, task: Task, **known: Any) -> dict[str, Any]:
    speed = samples_per_second(model, task.inputs(task.test, 256)[0])
    return {**known, "parameters": sum(p.numel() for p in model.parameters()), "samples_per_second": speed}


def _reached(task: Task, trained: dict[str, Any]) -> str:
    return (
        f"{_figure(task.metric, trained[task.metric.name])}   {trained['epochs']} epochs, {trained['steps']} steps on "
        f"{trained['train_samples']} {task.unit}, {trained['seconds']:.0f} s"
    )


def _figure(metric: Metric, value: float) -> str:
    return f"{metric.text(value):>7}"


def usable_device(name: str) -> torch.device:
    """Return the device called ``name``.

    Raises:
        ValueError: It cannot be used here; the message says why.
    """
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {name!r} cannot be used: {str(error).splitlines()[0]}") from error
    return device
