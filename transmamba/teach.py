"""The teacher of a run: trained once and kept beside the runs, or a ready one."""

from __future__ import annotations

import copy
import dataclasses
import errno
import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from transmamba.checkpoint import CheckpointError, versions
from transmamba.config import RunConfig, digest, to_dict
from transmamba.files import write_json
from transmamba.tasks import ImageData, accuracy, subset
from transmamba.teachers import Teacher, create_teacher
from transmamba.teachers.teacher import no_progress_bars
from transmamba.train import Plan, Trainer, Watcher

FORMAT = "transmamba-teacher"


@dataclasses.dataclass
class Taught:
    """A teacher that is ready.

    Attributes:
        teacher: The frozen Transformer.
        folder: Where it lies, loadable by transformers.
        accuracy: On the test data, 0 to 1.
        origin: ``"trained"``, ``"fine-tuned"``, ``"reused"`` (trained by an earlier run) or ``"given"``.
        weights_hash: Of its weights.
        seconds: That its training took; 0 for a given one.
        before: The teacher before fine-tuning, if it was fine-tuned now.
    """

    teacher: Teacher
    folder: str
    accuracy: float
    origin: str
    weights_hash: str
    seconds: float = 0.0
    before: Teacher | None = None


def teacher_folder(config: RunConfig) -> Path:
    """Where the teacher of ``config`` is kept: beside the run's folder, under a name made from its own options."""
    return config.folder.parent / "teachers" / f"{config.data}-{digest(_identity(config))[:10]}"


def build_teacher(config: RunConfig, data: ImageData) -> Teacher:
    """The teacher of ``config`` before any training: with random weights, or the one from its path.

    Raises:
        ValueError: It does not fit the data; the message says what to change.
        FileNotFoundError, ImportError: As of :func:`transmamba.teachers.create_teacher`.
    """
    options = config.teacher
    torch.manual_seed(options.seed)
    if options.path is None:
        return create_teacher(_vit_config(config, data))
    teacher = create_teacher(options.path)
    model: Any = teacher.model
    if teacher.grid is None or not teacher.spec.head:
        raise ValueError(f"the teacher must classify images, got {type(model).__name__}")
    size, channels = model.config.image_size, model.config.num_channels
    if size not in (data.size, (data.size, data.size), [data.size, data.size]):
        raise ValueError(f"the teacher takes images of size {size}, the data has {data.size}: give --image-size {size}")
    if channels != data.channels:
        raise ValueError(
            f"the teacher takes {channels} image channels, the data has {data.channels}: give --channels {channels}"
        )
    if teacher.num_classes != data.num_classes:
        if not options.fine_tune:
            raise ValueError(
                f"the teacher knows {teacher.num_classes} classes, the data has {data.num_classes}: "
                "give --teacher.fine-tune"
            )
        teacher = _with_new_head(teacher, data.num_classes)
    return teacher


def teach(config: RunConfig, data: ImageData, folder: Path | None = None, watcher: Watcher | None = None) -> Taught:
    """Return the teacher of ``config``: given, found in ``folder``, or trained and kept there.

    Args:
        folder: Default :func:`teacher_folder`.

    Raises:
        CheckpointError: The folder holds another teacher, or its weights are not those that were saved.
    """
    teacher, device = build_teacher(config, data), torch.device(config.device)
    if config.teacher.path is not None and not config.teacher.fine_tune:
        teacher.to(device)
        reached = accuracy(teacher, data.test)
        return Taught(teacher, config.teacher.path, reached, "given", teacher.weights_hash())
    folder = teacher_folder(config) if folder is None else folder
    before = copy.deepcopy(teacher) if config.teacher.fine_tune else None
    if (manifest := _read(folder / "teacher.json")) is not None:
        return dataclasses.replace(_reuse(config, folder, manifest, device), before=before)
    folder.mkdir(parents=True, exist_ok=True)
    model = teacher.model.to(device)

    def loss(images: torch.Tensor, targets: torch.Tensor, _progress: float) -> tuple[torch.Tensor, dict]:
        return F.cross_entropy(model(pixel_values=images).logits, targets), {}

    options = config.teacher
    plan = Plan(
        stage="teacher",
        train=subset(data.train, options.fraction, options.seed),
        test=data.test,
        epochs=options.epochs,
        batch_size=options.batch_size,
        seed=options.seed,
        shift=options.shift,
        optim=options.optim,
        origin=digest(_identity(config)),
    )
    trainer = Trainer(plan, model, loss, model, folder / "teacher.pt", watcher)
    trainer.run()
    _save_pretrained(model, folder)
    teacher.eval()
    taught = Taught(
        teacher,
        str(folder),
        trainer.history[-1]["accuracy"],
        "fine-tuned" if options.fine_tune else "trained",
        teacher.weights_hash(),
        trainer.seconds,
        before,
    )
    # Last, for it says that everything before it is there.
    _write(folder, taught, config)
    return taught


def _save_pretrained(model: Any, folder: Path) -> None:
    try:
        with no_progress_bars():
            model.save_pretrained(folder)
    except Exception as error:  # safetensors has its own type for a full disk
        raise OSError(errno.EIO, f"cannot write the teacher into {folder}: {error}") from error


def _write(folder: Path, taught: Taught, config: RunConfig) -> None:
    content = {
        "format": FORMAT,
        "config": _identity(config),
        "accuracy": taught.accuracy,
        "seconds": taught.seconds,
        "weights": taught.weights_hash,
        "versions": versions(),
    }
    write_json(folder / "teacher.json", content)
    (folder / "teacher.pt").unlink()


def _read(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise ValueError("another format")
        return content
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{path} is not the manifest of a teacher: {error}") from error


def _reuse(config: RunConfig, folder: Path, manifest: dict[str, Any], device: torch.device) -> Taught:
    if manifest["config"] != _identity(config):
        raise CheckpointError(f"{folder} holds a teacher made with other options; give another --out-dir")
    teacher = create_teacher(folder)
    found = teacher.weights_hash()
    if found != manifest["weights"]:
        raise CheckpointError(
            f"the weights in {folder} are not those that were saved: expected {manifest['weights'][:12]}, "
            f"found {found[:12]}; remove the folder to train the teacher again"
        )
    teacher.to(device)
    return Taught(teacher, str(folder), manifest["accuracy"], "reused", found, manifest["seconds"])


def _identity(config: RunConfig) -> dict[str, Any]:
    whole = to_dict(config)
    return {name: whole[name] for name in ("data", "image_size", "channels", "teacher")}


def _vit_config(config: RunConfig, data: ImageData) -> Any:
    try:
        from transformers import ViTConfig
    except ImportError as error:
        raise ImportError('teachers need transformers: pip install "transmamba[adapt]"') from error
    options = config.teacher
    if options.patch_size > data.size:
        raise ValueError(f"teacher.patch_size must be at most the image's {data.size}, got {options.patch_size}")
    return ViTConfig(  # type: ignore[call-arg]
        hidden_size=options.hidden_size,
        num_hidden_layers=options.layers,
        num_attention_heads=options.heads,
        intermediate_size=round(options.mlp_ratio * options.hidden_size),
        image_size=data.size,
        patch_size=options.patch_size,
        num_channels=data.channels,
        num_labels=data.num_classes,
        layer_norm_eps=1e-6,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )


def _with_new_head(teacher: Teacher, num_classes: int) -> Teacher:
    name, model = teacher.spec.head, teacher.model
    if name != "classifier":
        raise ValueError(f"{type(model).__name__} has two heads; only a single one can be replaced for other classes")
    setattr(model, name, nn.Linear(teacher.d_model, num_classes))
    config: Any = model.config
    config.num_labels = num_classes
    return Teacher(model)
