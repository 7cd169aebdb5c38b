"""One retrieval run from start to end: data, CLIP, initialisation, distillation, scratch baseline, report."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from transmamba import processes
from transmamba.adapt import usable_device
from transmamba.checkpoint import Manifest, Stages, require_stage, save_checkpoint, trained_weights, versions
from transmamba.config import digest, identity, to_dict
from transmamba.distill import check_mixers, layer_map
from transmamba.distill.losses import contrastive_loss
from transmamba.distill.video_text import VideoTextDistiller, subclone_video_text
from transmamba.files import write_text
from transmamba.models import VideoText, create_model, default_config
from transmamba.retrieve.config import RetrieveConfig
from transmamba.retrieve.data import VideoData, describe_left_out, load_data, read_captions
from transmamba.retrieve.report import write_report
from transmamba.retrieve.retriever import Retriever, measure
from transmamba.retrieve.teacher import (
    METRIC,
    TaughtClip,
    build_clip,
    build_tokenizer,
    max_length,
    normalisation,
    teach_clip,
)
from transmamba.run_folder import METRICS_FORMAT, STAGES, STUDENT, SUBCLONE, claim
from transmamba.tasks.captions import Captions
from transmamba.tasks.video import pyav
from transmamba.teachers import ClipTeacher
from transmamba.train import Plan, Trainer, Watcher, plain

Say = Callable[[str], None]


@dataclasses.dataclass
class Run:
    """A run whose options were found good; see :func:`prepare`.

    Attributes:
        config, captions: What was asked for.
        teacher, tokenizer: The CLIP before any training, and how it reads.
        finished: The content of its metrics file when there is nothing left to do, else None.
    """

    config: RetrieveConfig
    captions: dict[str, Captions]
    teacher: ClipTeacher
    tokenizer: Any
    finished: dict[str, Any] | None


def prepare(config: RetrieveConfig, overwrite: bool = False) -> Run:
    """Check everything that can be checked before work begins, and make the run's folder.

    Args:
        overwrite: Remove what an earlier run left in the folder.

    Raises:
        ValueError, TypeError, FileNotFoundError, ImportError: An option is wrong, does not fit the others, or needs
            what is not there.
        FileExistsError: The folder holds another run, or something else; the message says what differs.
    """
    pyav()
    if processes.count() > 1:
        raise ValueError(
            f"retrieve runs in one process, for a batch's pairs are told from one another; got {processes.count()}"
        )
    usable_device(config.device)
    captions = read_captions(config)
    tokenizer = build_tokenizer(config.teacher, captions["train"].texts)
    teacher = build_clip(config, tokenizer)
    student = create_student(config, teacher)
    VideoTextDistiller(student, teacher, config.distill)
    for tower, of in ((student.video, teacher.vision), (student.text, teacher.text)):
        layer_map(config.subclone.layer_map, tower.config.depth, of.depth)
        check_mixers(tower, config.subclone.mixer)
    if config.subclone.importance == "stability":
        raise ValueError(
            "importance 'stability' compares a teacher before and after fine-tuning, which no run here does"
        )
    return Run(config, captions, teacher, tokenizer, claim(config, overwrite))


def retrieve(run: Run, watcher: Watcher | None = None, say: Say = lambda text: None) -> dict[str, Any]:
    """Do what is left of ``run`` and return its metrics, which are also in its folder.

    Args:
        watcher: Told about the progress.
        say: Told in one line what each part gave.

    Raises:
        TrainingError, Interrupted, CheckpointError, OSError: As of :class:`transmamba.train.Trainer`.
        VideoError: None of the videos can be used.
    """
    config, folder = run.config, run.config.folder
    if run.finished is not None:
        return run.finished
    normalise = normalisation(config.teacher.path)
    data = load_data(config, run.captions, run.tokenizer, max_length(run.teacher), normalise, told(watcher))
    for line in describe_left_out(data.left_out):
        say(line)
    taught = teach_clip(config, run.teacher, run.tokenizer, data, watcher)
    say(f"teacher   {METRIC.text(taught.measured['R@1']):>7}   {taught.origin}, {taught.folder}")
    stages = _Stages(config, data, folder / STAGES, taught, watcher)
    coverage = stages.initialise(folder / SUBCLONE)
    say(f"subclone  {coverage:7.2%}   of the student's parameters come from the teacher")
    student, adapted = stages.distill()
    say(f"adapted   {_reached(adapted)}")
    scratch = stages.scratch() if config.scratch else None
    if scratch:
        say(f"scratch   {_reached(scratch)}")
    retriever = Retriever(student, run.tokenizer, *normalise)
    retriever.save(folder / STUDENT)
    parameters = sum(p.numel() for p in student.parameters())
    metrics = {
        "format": METRICS_FORMAT,
        "config": to_dict(config),
        "metric": dataclasses.asdict(METRIC),
        "data": {
            "train": len(data.train),
            "test": len(data.test),
            "test_videos": len(data.test.rows),
            "left_out": data.left_out,
        },
        "teacher": {"origin": taught.origin, "folder": taught.folder, "weights": taught.weights_hash},
        "coverage": coverage,
        "results": {
            "teacher": {
                **taught.measured,
                "seconds": taught.seconds,
                "parameters": sum(p.numel() for p in taught.teacher.model.parameters()),
            },
            "scratch": scratch and {**scratch, "parameters": parameters},
            "adapted": {**adapted, "parameters": parameters},
        },
        "versions": versions(),
    }
    write_report(folder, metrics, retriever, data)
    return metrics


class _Stages:
    """The trainings of the student, each started from the checkpoint of the one before."""

    def __init__(
        self, config: RetrieveConfig, data: VideoData, folder: Path, taught: TaughtClip, watcher: Watcher | None
    ):
        self.config, self.data, self.folder, self.taught, self.watcher = config, data, folder, taught, watcher
        self.identity = identity(to_dict(config))
        self.stages = Stages(folder, self.identity, taught.weights_hash)
        self.device = torch.device(config.device)

    def initialise(self, report: Path) -> float:
        """Stage ``init``: clone both towers and set up the calibration; return the cloned part of the parameters."""
        if not self.stages.finished("init"):
            student = create_student(self.config, self.taught.teacher).to(self.device)
            looked_at = range(0, min(256, len(self.data.train)), 64)
            batches = [self.data.train[list(range(i, min(i + 64, len(self.data.train))))] for i in looked_at]
            clips, words = ([batch[part].to(self.device) for batch in batches] for part in (0, 1))
            reports = subclone_video_text(student, self.taught.teacher, self.config.subclone, clips, words)
            channels = [found.channels for found in reports]
            distiller = VideoTextDistiller(student, self.taught.teacher, self.config.distill, channels)
            write_text(report, "\n".join(found.to_markdown() for found in reports))
            sizes = [sum(row.numel for row in found.rows) for found in reports]
            cloned = sum(found.coverage * size for found, size in zip(reports, sizes, strict=True))
            coverage = (cloned + student.text_projection.weight.numel() + 1) / sum(
                p.numel() for p in student.parameters()
            )
            state = {"model": distiller.state_dict(), "channels": channels, "coverage": coverage}
            self.stages.finish(
                "init", save_checkpoint(self.folder / "init.pt", state), "teacher", self.taught.weights_hash
            )
        return self.stages.require("init", "teacher", "distill")[1]["coverage"]

    def distill(self) -> tuple[VideoText, dict[str, Any]]:
        """Stage ``distill``: everything, by the whole loss; return the student and what its training gave."""
        before, start = self.stages.require("init", "teacher", "distill")
        student = create_student(self.config, self.taught.teacher)
        distiller = VideoTextDistiller(student, self.taught.teacher, self.config.distill, start["channels"])
        distiller.to(self.device).load_state_dict(start["model"])
        if not self.stages.finished("distill"):
            origin = digest([self.identity, before.checkpoint, self.taught.weights_hash])
            checkpoint = self._trainer("distill", origin, distiller, distiller.loss, student).run()
            self.stages.finish("distill", checkpoint, "init", before.checkpoint)
        state = self.stages.require("distill", "init", "report")[1]
        distiller.load_state_dict(trained_weights(state))
        return student.eval(), _trained(state, len(self.data.train))

    def scratch(self) -> dict[str, Any]:
        """The baseline: the adapted student's twin before cloning, by the contrastive loss alone, for equal steps."""
        if not self.stages.finished("scratch"):
            student = create_student(self.config, self.taught.teacher).to(self.device)

            def loss(clips: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
                return contrastive_loss(student(clips, input_ids, attention_mask))

            checkpoint = self._trainer("scratch", digest(self.identity), student, plain(loss), student).run()
            Manifest("scratch", checkpoint or "", self.identity, versions=versions()).write(self.folder)
        state = require_stage(self.folder, "scratch", needed_by="report", config=self.identity)[1]
        return _trained(state, len(self.data.train))

    def _trainer(self, stage: str, origin: str, model: nn.Module, loss: Any, student: VideoText) -> Trainer:
        config = self.config
        plan = Plan(
            stage=stage,
            train=self.data.train,
            epochs=config.epochs,
            batch_size=config.batch_size,
            seed=config.seed,
            optim=config.optim,
            origin=origin,
            metric=METRIC,
        )
        test = partial(measure, student, model, self.data.test)
        return Trainer(plan, model, loss, test, self.folder / f"{stage}.pt", self.watcher)


def create_student(config: RetrieveConfig, teacher: ClipTeacher) -> VideoText:
    """The student of ``config`` at its own initialisation, the same for the same seed.

    Raises:
        ValueError: An option does not fit the data or the teacher.
    """
    text = teacher.model.config.text_config
    fits: dict[str, dict[str, Any]] = {
        "video_options": {
            "image_size": config.image_size,
            "in_channels": config.channels,
            "num_frames": config.frames,
            "num_classes": teacher.d_embed,
        },
        "text_options": {"vocab_size": text.vocab_size, "max_length": text.max_position_embeddings},
    }
    default, overrides = default_config(config.student), dict[str, Any](d_embed=teacher.d_embed)
    for name, fixed in fits.items():
        given = getattr(config, name)
        for option, value in fixed.items():
            if given.get(option, value) != value:
                raise ValueError(f"{name}: {option} must be {value}, as data and teacher have it; got {given[option]}")
        overrides[name] = {**getattr(default, name, {}), **given, **fixed}
    torch.manual_seed(config.seed)
    student = create_model(config.student, **overrides)
    if not isinstance(student, VideoText):
        raise ValueError(f"student {config.student} is no model of videos and texts")
    return student


def told(watcher: Watcher | None) -> Callable[[str, int, int], None]:
    """Progress with files as steps of ``watcher``."""
    shown: dict[str, int] = {}

    def tell(name: str, done: int, total: int) -> None:
        if watcher is None:
            return
        key = f"{name} {total}"
        if key not in shown:
            shown[key] = done - 1
            watcher.start(name, total, done - 1)
        for _ in range(done - shown[key]):
            watcher.step(None)
        shown[key] = done

    return tell


def _trained(state: dict[str, Any], samples: int) -> dict[str, Any]:
    history = state["history"]
    return {
        **history[-1],
        "steps": state["steps"],
        "train_pairs": samples,
        "seconds": state["seconds"],
        "history": history,
    }


def _reached(trained: dict[str, Any]) -> str:
    return (
        f"{METRIC.text(trained['R@1']):>7}   {trained['epoch']} epochs, {trained['steps']} steps on "
        f"{trained['train_pairs']} pairs, {trained['seconds']:.0f} s"
    )
