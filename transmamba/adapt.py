"""One run from start to end: teacher, initialisation, optional warm-up, distillation, scratch baseline."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

from transmamba.checkpoint import Manifest, read_manifest, require_stage, save_checkpoint, versions
from transmamba.config import RunConfig, digest, identity, to_dict
from transmamba.distill import DistillConfig, Distiller, check_mixers, layer_map, subclone
from transmamba.files import write_text
from transmamba.models import create_model, load_pretrained, save_pretrained
from transmamba.report import images_per_second, write_report
from transmamba.run_folder import RUN_FORMAT, STAGES, STUDENT, SUBCLONE, claim
from transmamba.tasks import ImageData, load_images, subset
from transmamba.teach import Taught, build_teacher, teach
from transmamba.train import Plan, Trainer, Watcher

Say = Callable[[str], None]


@dataclasses.dataclass
class Run:
    """A run whose options were found good; see :func:`prepare`.

    Attributes:
        config, data: What was asked for.
        folder: It exists, and belongs to this run.
        finished: The content of its metrics file when there is nothing left to do, else None.
    """

    config: RunConfig
    data: ImageData
    folder: Path
    finished: dict[str, Any] | None


def prepare(config: RunConfig, overwrite: bool = False) -> Run:
    """Check everything that can be checked before work begins, and make the run's folder.

    Args:
        overwrite: Remove what an earlier run left in the folder.

    Raises:
        ValueError, TypeError, FileNotFoundError, ImportError: An option is wrong, does not fit the others, or needs
            what is not there.
        FileExistsError: The folder holds another run, or something else; the message says what differs.
    """
    usable_device(config.device)
    data = load_images(config.data, config.data_dir, config.image_size, config.channels)
    student, teacher = _create_student(config, data), build_teacher(config, data)
    Distiller(student, teacher, config.distill)
    layer_map(config.subclone.layer_map, student.config.depth, teacher.depth)  # type: ignore[union-attr, arg-type]
    check_mixers(student, config.subclone.mixer)
    if config.subclone.ssm_from is not None:
        load_pretrained(config.subclone.ssm_from)
    if config.subclone.importance == "stability" and not config.teacher.fine_tune:
        raise ValueError("importance 'stability' compares a teacher before and after: give --teacher.fine-tune")
    return Run(config, data, config.folder, claim(config, overwrite))


def adapt(run: Run, watcher: Watcher | None = None, say: Say = lambda text: None) -> dict[str, Any]:
    """Do what is left of ``run`` and return its metrics, which are also in its folder.

    Args:
        watcher: Told about each training's progress.
        say: Told in one line what each part gave.

    Raises:
        TrainingError, Interrupted, CheckpointError, OSError: As of :class:`transmamba.train.Trainer`.
    """
    config, data, folder = run.config, run.data, run.folder
    if run.finished is not None:
        return run.finished
    taught = teach(config, data, watcher=watcher)
    say(f"teacher   {taught.accuracy:7.2%}   {taught.origin}, {taught.folder}")
    adaptation = _Adaptation(config, data, folder / STAGES, taught, watcher)
    coverage = adaptation.initialise(folder / SUBCLONE)
    say(f"subclone  {coverage:7.2%}   of the student's parameters come from the teacher")
    warmed = adaptation.warm_up() if config.warmup_epochs else None
    if warmed is not None:
        say(f"warm-up   {_reached(warmed)}, mixers and calibration")
    student, adapted = adaptation.distill("init" if warmed is None else "warmup")
    adapted = adapted if warmed is None else _joined(warmed, adapted)
    say(f"adapted   {_reached(adapted)}")
    scratch = _scratch(config, data, folder / STAGES, watcher) if config.scratch else None
    if scratch:
        say(f"scratch   {_reached(scratch)}")
    save_pretrained(student, folder / STUDENT)
    results: dict[str, Any] = {
        "teacher": _row(taught.teacher.model, data, accuracy=taught.accuracy, seconds=taught.seconds),
        "scratch": scratch,
        "adapted": _row(student, data, **adapted),
    }
    if scratch is not None:
        # The same network: measured once, so that no difference appears where there is none.
        shared = {name: results["adapted"][name] for name in ("parameters", "images_per_second")}
        results["scratch"] = {**scratch, **shared}
    metrics = {
        "format": RUN_FORMAT,
        "config": to_dict(config),
        "data": {"train": len(data.train), "test": len(data.test)},
        "teacher": {"origin": taught.origin, "folder": taught.folder, "weights": taught.weights_hash},
        "coverage": coverage,
        "results": results,
        "versions": versions(),
    }
    write_report(folder, metrics)
    return metrics


class _Adaptation:
    """The stages that lead from a teacher to a student, each started from the checkpoint of the one before."""

    def __init__(self, config: RunConfig, data: ImageData, folder: Path, taught: Taught, watcher: Watcher | None):
        self.config, self.data, self.folder, self.taught, self.watcher = config, data, folder, taught, watcher
        self.train = subset(data.train, config.fraction, config.seed)
        self.identity = identity(to_dict(config))
        self.device = torch.device(config.device)

    def initialise(self, report: Path) -> float:
        """Stage ``init``: clone the student and set up the calibration; return the cloned part of its parameters."""
        if read_manifest(self.folder, "init") is None:
            student = _create_student(self.config, self.data).to(self.device)
            images = [batch.to(self.device) for batch in self.train.tensors[0][:512].split(256)]
            cloned = subclone(student, self.taught.teacher, self.config.subclone, images, self.taught.before)
            distiller = Distiller(student, self.taught.teacher, self.config.distill, cloned.channels)
            write_text(report, cloned.to_markdown())
            state = {"model": distiller.state_dict(), "channels": cloned.channels, "coverage": cloned.coverage}
            checkpoint = save_checkpoint(self.folder / "init.pt", state)
            self._finish("init", checkpoint, "teacher", self.taught.weights_hash)
        return self._require("init", "teacher", "distill")[1]["coverage"]

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
        before, start = self._require(parent, grandparent, stage)
        distiller = Distiller(
            _create_student(self.config, self.data), self.taught.teacher, options, self._channels()
        ).to(self.device)
        distiller.load_state_dict(_weights(start))
        if mixers_only:
            roles = distiller.student.clone_roles()  # type: ignore[operator]
            for name, parameter in distiller.student.named_parameters():
                parameter.requires_grad_(roles[name].is_fresh)
        if read_manifest(self.folder, stage) is None:
            origin = digest([self.identity, before.checkpoint, self.taught.weights_hash])
            plan = _plan(self.config, stage, self.train, self.data.test, epochs, origin)
            trainer = Trainer(
                plan, distiller, distiller.loss, distiller.student, self.folder / f"{stage}.pt", self.watcher
            )
            self._finish(stage, trainer.run(), parent, before.checkpoint)
        state = self._require(stage, parent, "report")[1]
        distiller.load_state_dict(_weights(state))
        return distiller, _trained(state, len(self.train))

    def _channels(self) -> list[int]:
        return self._require("init", "teacher", "distill")[1]["channels"]

    def _require(self, stage: str, parent: str, needed_by: str) -> tuple[Manifest, dict[str, Any]]:
        return require_stage(
            self.folder,
            stage,
            needed_by=needed_by,
            config=self.identity,
            teacher=self.taught.weights_hash,
            parent=parent,
        )

    def _finish(self, stage: str, checkpoint: str | None, parent: str, parent_checkpoint: str) -> None:
        Manifest(
            stage, checkpoint or "", self.identity, parent, parent_checkpoint, self.taught.weights_hash, versions()
        ).write(self.folder)


def _scratch(config: RunConfig, data: ImageData, folder: Path, watcher: Watcher | None) -> dict[str, Any]:
    """The baseline: the adapted student's twin before cloning, by cross entropy, on the same schedule."""
    train, flat = subset(data.train, config.scratch_fraction, config.seed), identity(to_dict(config))
    if read_manifest(folder, "scratch") is None:
        student = _create_student(config, data).to(config.device)

        def loss(images: torch.Tensor, targets: torch.Tensor, _progress: float) -> tuple[torch.Tensor, dict]:
            return F.cross_entropy(student(images), targets), {}

        plan = _plan(config, "scratch", train, data.test, config.epochs, digest(flat))
        checkpoint = Trainer(plan, student, loss, student, folder / "scratch.pt", watcher).run()
        Manifest("scratch", checkpoint or "", flat, versions=versions()).write(folder)
    return _trained(require_stage(folder, "scratch", needed_by="report", config=flat)[1], len(train))


def _plan(config: RunConfig, stage: str, train: TensorDataset, test: TensorDataset, epochs: int, origin: str) -> Plan:
    shared = {
        name: getattr(config, name) for name in ("batch_size", "seed", "shift", "optim", "accumulate", "precision")
    }
    return Plan(stage, train, test, epochs, origin=origin, **shared)


def _create_student(config: RunConfig, data: ImageData) -> nn.Module:
    """The student of ``config`` at its own initialisation, the same for the same seed."""
    fits = {"image_size": data.size, "in_channels": data.channels, "num_classes": data.num_classes}
    for name, value in fits.items():
        if config.student_options.get(name, value) != value:
            raise ValueError(f"student_options: {name} must be the data's {value}, got {config.student_options[name]}")
    torch.manual_seed(config.seed)
    student = create_model(config.student, **{**config.student_options, **fits})
    if len(student.grid) != 2:  # type: ignore[arg-type]
        raise ValueError(f"student {config.student} does not take images one at a time")
    return student


def _weights(state: dict[str, Any]) -> dict[str, Any]:
    return state["model"] if state.get("ema") is None else state["ema"]


def _trained(state: dict[str, Any], images: int) -> dict[str, Any]:
    history = state["history"]
    return {
        "accuracy": history[-1]["accuracy"],
        "steps": state["steps"],
        "epochs": history[-1]["epoch"],
        "train_images": images,
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


def _row(model: nn.Module, data: ImageData, **known: Any) -> dict[str, Any]:
    speed = images_per_second(model, data.test.tensors[0])
    return {**known, "parameters": sum(p.numel() for p in model.parameters()), "images_per_second": speed}


def _reached(trained: dict[str, Any]) -> str:
    return (
        f"{trained['accuracy']:7.2%}   {trained['epochs']} epochs, {trained['steps']} steps on "
        f"{trained['train_images']} images, {trained['seconds']:.0f} s"
    )


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
