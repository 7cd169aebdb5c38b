"""The teacher of a run: trained once and kept beside the runs, or a ready one."""

from __future__ import annotations

import copy
import dataclasses
import errno
import json
from functools import partial
from pathlib import Path
from typing import Any

import torch

from transmamba import processes
from transmamba.checkpoint import CheckpointError, versions
from transmamba.config import OWN_DATA, RunConfig, digest, to_dict
from transmamba.files import write_json
from transmamba.processes import one_writer
from transmamba.tasks import Task
from transmamba.teachers import Teacher, create_teacher
from transmamba.teachers.teacher import no_progress_bars
from transmamba.train import Plan, Trainer, Watcher, plain

FORMAT, _MANIFEST = "transmamba-teacher", "teacher.json"


@dataclasses.dataclass
class Taught:
    """A teacher that is ready.

    Attributes:
        teacher: The frozen Transformer.
        folder: Where it lies, loadable by transformers.
        reached: The task's main figure on the test data.
        origin: ``"trained"``, ``"fine-tuned"``, ``"reused"`` (trained by an earlier run) or ``"given"``.
        weights_hash: Of its weights.
        seconds: That its training took; 0 for a given one.
        before: The teacher before fine-tuning, if it was fine-tuned now.
    """

    teacher: Teacher
    folder: str
    reached: float
    origin: str
    weights_hash: str
    seconds: float = 0.0
    before: Teacher | None = None


def teacher_folder(config: RunConfig) -> Path:
    """Where the teacher of ``config`` is kept: beside the run's folder, under a name made from its own options."""
    return config.folder.parent / "teachers" / f"{config.data}-{digest(_identity(config))[:10]}"


def build_teacher(config: RunConfig, task: Task) -> Teacher:
    """The teacher of ``config`` before any training: with random weights, or the one from its path.

    Raises:
        ValueError, FileNotFoundError, ImportError: As of :meth:`transmamba.tasks.Task.build_teacher`.
    """
    torch.manual_seed(config.teacher.seed)
    return task.build_teacher(config)


def teach(config: RunConfig, task: Task, folder: Path | None = None, watcher: Watcher | None = None) -> Taught:
    """Return the teacher of ``config``: given, found in ``folder``, or trained and kept there.

    Args:
        folder: Default :func:`teacher_folder`.

    Raises:
        CheckpointError: The folder holds another teacher, or its weights are not those that were saved.
    """
    teacher, device = build_teacher(config, task), torch.device(config.device)
    if config.teacher.path is not None and not config.teacher.fine_tune:
        teacher.to(device)
        reached = task.measure(teacher)[task.metric.name]
        return Taught(teacher, config.teacher.path, reached, "given", teacher.weights_hash())
    folder = teacher_folder(config) if folder is None else folder
    before = copy.deepcopy(teacher) if config.teacher.fine_tune else None
    if (manifest := read_manifest(folder, FORMAT, "a teacher")) is not None:
        return dataclasses.replace(_reuse(config, folder, manifest, task.metric.name, device), before=before)
    folder.mkdir(parents=True, exist_ok=True)
    model = teacher.model.to(device)

    options = config.teacher
    plan = Plan(
        stage="teacher",
        train=task.subset(options.fraction, options.seed),
        epochs=options.epochs,
        batch_size=options.batch_size,
        seed=options.seed,
        optim=options.optim,
        origin=digest(_identity(config)),
        augment=lambda batch: task.augment(batch, options),
        metric=task.metric,
    )
    loss, measure = plain(partial(task.loss, model)), partial(task.measure, model)
    trainer = Trainer(plan, model, loss, measure, folder / "teacher.pt", watcher)
    trainer.run()
    weights = processes.whole(model.state_dict())
    teacher = build_teacher(config, task)  # what was trained may be shared out among processes
    teacher.model.load_state_dict(weights)
    teacher.to(device)
    save_parts(folder, teacher.model)
    taught = Taught(
        teacher,
        str(folder),
        trainer.history[-1][task.metric.name],
        "fine-tuned" if options.fine_tune else "trained",
        teacher.weights_hash(),
        trainer.seconds,
        before,
    )
    content = {
        "format": FORMAT,
        "config": _identity(config),
        task.metric.name: taught.reached,
        "seconds": taught.seconds,
        "weights": taught.weights_hash,
    }
    write_manifest(folder, content)
    return taught


def save_parts(folder: Path, *parts: Any) -> None:
    """Write models and tokenizers of transformers into ``folder``.

    Raises:
        OSError: They cannot be written.
    """
    try:
        with no_progress_bars(), one_writer() as writes:
            for part in parts if writes else ():
                part.save_pretrained(folder)
    except Exception as error:  # safetensors has its own type for a full disk
        raise OSError(errno.EIO, f"cannot write the teacher into {folder}: {error}") from error


def write_manifest(folder: Path, content: dict[str, Any]) -> None:
    """Say that everything of a teacher is in ``folder``: the last thing to be written, and its checkpoint goes."""
    write_json(folder / _MANIFEST, {**content, "versions": versions()})
    with one_writer() as writes:
        if writes:
            (folder / "teacher.pt").unlink()


def read_manifest(folder: Path, expected: str, what: str) -> dict[str, Any] | None:
    """What :func:`write_manifest` wrote into ``folder``, or None while no teacher is finished there.

    Args:
        expected: Its format.
        what: How messages call such a teacher.

    Raises:
        CheckpointError: The file is damaged or foreign.
    """
    path = folder / _MANIFEST
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != expected:
            raise ValueError("another format")
        return content
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{path} is not the manifest of {what}: {error}") from error


def require_weights(folder: Path, manifest: dict[str, Any], found: str) -> None:
    """Raise CheckpointError unless ``found`` is the hash of the weights that were saved in ``folder``."""
    if found != manifest["weights"]:
        raise CheckpointError(
            f"the weights in {folder} are not those that were saved: expected {manifest['weights'][:12]}, "
            f"found {found[:12]}; remove the folder to train the teacher again"
        )


def _reuse(config: RunConfig, folder: Path, manifest: dict[str, Any], metric: str, device: torch.device) -> Taught:
    if manifest["config"] != _identity(config):
        raise CheckpointError(f"{folder} holds a teacher made with other options; give another --out-dir")
    teacher = create_teacher(folder)
    found = teacher.weights_hash()
    require_weights(folder, manifest, found)
    teacher.to(device)
    return Taught(teacher, str(folder), manifest[metric], "reused", found, manifest["seconds"])


def _identity(config: RunConfig) -> dict[str, Any]:
    whole, own = to_dict(config), ("data_dir",) if config.data in OWN_DATA else ()
    return {name: whole[name] for name in ("data", *own, "image_size", "channels", "teacher")}
