"""Everything a run can be told, checked when it is made, and the presets."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transmamba.checks import at_least, fraction, positive, within
from transmamba.distill import DistillConfig, SubcloneConfig
from transmamba.tasks.text import TextConfig

OWN_DATA = ("imagefolder",)  # names of data that say nothing of which data it is; its folder does
PRECISIONS = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """AdamW and its schedule: linear warm-up, then a cosine.

    Attributes:
        learning_rate: At the top of the schedule.
        final_rate: At its end, as a part of learning_rate.
        warmup: Part of the steps over which the rate rises.
        weight_decay: Of matrices; norms, biases, A and D have none.
        grad_clip: Largest norm of the gradient; 0 does not clip.
        label_smoothing: Probability spread over the wrong classes.
        ema: Part of the old weights that their running mean keeps per step; the mean is what is evaluated and saved.
            0: no running mean.
    """

    learning_rate: float = 1e-3
    final_rate: float = 0.01
    warmup: float = 0.1
    weight_decay: float = 0.05
    grad_clip: float = 1.0
    label_smoothing: float = 0.0
    ema: float = 0.0

    def __post_init__(self) -> None:
        within(self, 0, math.inf, "weight_decay", "grad_clip")
        within(self, 0, 1, "final_rate", "warmup")
        positive(self, "learning_rate")
        for name in ("label_smoothing", "ema"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 0 and below 1, got {getattr(self, name)}")


@dataclasses.dataclass(frozen=True)
class TeacherConfig:
    """A ViT to train, or a ready Transformer.

    Attributes:
        path: Folder or hub name of a ViT or DeiT classifier of transformers; without it one is built and trained.
        fine_tune: Train the one from path on the data first; if its classes differ, it gets a new head.
        hidden_size: Width of a built one.
        layers: Its blocks.
        heads: Its attention heads.
        patch_size: Its patches.
        mlp_ratio: Hidden units of its MLPs over hidden_size.
        epochs: Epochs of its training.
        batch_size: Images per step.
        shift: Augmentation: move the images by up to so many pixels.
        flip: Augmentation: mirror half of the images left to right.
        fraction: Part of the training data it sees.
        seed: Of its weights and of the order of its data.
        optim: Its optimiser.
    """

    path: str | None = None
    fine_tune: bool = False
    hidden_size: int = 64
    layers: int = 4
    heads: int = 4
    patch_size: int = 2
    mlp_ratio: float = 2.0
    epochs: int = 30
    batch_size: int = 64
    shift: int = 0
    flip: bool = False
    fraction: float = 1.0
    seed: int = 0
    optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)

    def __post_init__(self) -> None:
        at_least(self, 1, "hidden_size", "layers", "heads", "patch_size", "epochs", "batch_size")
        at_least(self, 0, "shift", "seed")
        positive(self, "mlp_ratio")
        fraction(self, "fraction")
        if self.hidden_size % self.heads:
            raise ValueError(f"heads must divide hidden_size {self.hidden_size}, got {self.heads}")
        if self.fine_tune and self.path is None:
            raise ValueError("fine_tune needs a path to the teacher")


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """One adaptation: data, teacher, student, and how long they learn.

    Attributes:
        data: Data set, "digits", "fashion-mnist", "cifar10", or "imagefolder" for images of your own; "text" for a
            language model, "sentences" for a text encoder.
        data_dir: Folder of its files, where they are not in their usual place; for the last two a text file.
        image_size: Resize the images to so many pixels.
        channels: Repeat the grey channel so many times.
        shift: Augmentation of student and scratch baseline: move the images by up to so many pixels.
        flip: Mirror half of them left to right.
        student: Name of a model, as in transmamba.models.list_models().
        student_options: Options of that model, as NAME VALUE pairs.
        epochs: Epochs of the adaptation, warm-up included, and of the scratch baseline.
        warmup_epochs: How many of them train mixers and calibration only, on features.
        batch_size: Images per step.
        accumulate: Compute each step in so many parts, whose gradients are added: less memory for the same step.
        precision: "float32", or "bfloat16" for the matrix products and scans of student and teacher; weights and their
            updates stay in float32.
        fraction: Part of the training data that the adapted student sees.
        scratch_fraction: Part that the scratch baseline sees.
        scratch: Train the baseline: the same student from its own initialisation, with cross entropy alone.
        seed: Of the student's weights, the order of the data and the choice of a fraction.
        out_dir: Folder of the run; runs/<data>-seed<seed> if not given.
        threads: CPU threads; torch's choice if not given.
        device: Where to compute, such as "cpu" or "cuda".
        tensorboard: Also write losses and figures for TensorBoard, into the run's folder.
        teacher: The Transformer.
        text: How a text is read.
        subclone: What the student takes over from it.
        distill: How the student learns from it.
        optim: Optimiser of student and scratch baseline.
    """

    data: str = "digits"
    data_dir: str | None = None
    image_size: int | None = None
    channels: int | None = None
    shift: int = 0
    flip: bool = False
    student: str = "transmamba_vim_micro"
    student_options: dict[str, int | float | bool | str] = dataclasses.field(default_factory=dict)
    epochs: int = 20
    warmup_epochs: int = 0
    batch_size: int = 64
    accumulate: int = 1
    precision: str = "float32"
    fraction: float = 1.0
    scratch_fraction: float = 1.0
    scratch: bool = True
    seed: int = 0
    out_dir: str | None = None
    threads: int | None = None
    device: str = "cpu"
    tensorboard: bool = False
    teacher: TeacherConfig = dataclasses.field(default_factory=TeacherConfig)
    text: TextConfig = dataclasses.field(default_factory=TextConfig)
    subclone: SubcloneConfig = dataclasses.field(default_factory=SubcloneConfig)
    distill: DistillConfig = dataclasses.field(default_factory=DistillConfig)
    optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)

    def __post_init__(self) -> None:
        at_least(self, 1, "epochs", "batch_size", "accumulate")
        at_least(self, 0, "shift", "seed", "warmup_epochs")
        if self.accumulate > self.batch_size:
            raise ValueError(f"accumulate must be at most batch_size = {self.batch_size}, got {self.accumulate}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}")
        at_least(self, 1, *(n for n in ("image_size", "channels", "threads") if getattr(self, n) is not None))
        fraction(self, "fraction", "scratch_fraction")
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs must be below epochs = {self.epochs}, got {self.warmup_epochs}")

    @property
    def folder(self) -> Path:
        """Folder of the run."""
        return Path(self.out_dir) if self.out_dir else Path("runs") / f"{self.data}-seed{self.seed}"


PRESETS = {
    # Learning rate, running mean and early were chosen on a fifth of the training data that neither teacher nor
    # students saw, with seeds that the benchmark does not use; the learning rate is the best one for scratch.
    # One thread: the model is too small for more, and a second one makes it slower.
    "digits": RunConfig(
        threads=1,
        subclone=SubcloneConfig(early=4),
        optim=OptimConfig(learning_rate=2e-3, ema=0.95),
    ),
    "fashion-mnist": RunConfig(
        data="fashion-mnist",
        student_options={"patch_size": 7},
        epochs=4,
        batch_size=128,
        subclone=SubcloneConfig(early=4),
        teacher=TeacherConfig(patch_size=7, epochs=4, batch_size=128),
    ),
    # A size for a CPU: 16 patches.
    "cifar10": RunConfig(
        data="cifar10",
        shift=2,
        flip=True,
        student_options={"patch_size": 8},
        epochs=10,
        batch_size=128,
        subclone=SubcloneConfig(early=4),
        teacher=TeacherConfig(patch_size=8, epochs=10, batch_size=128, shift=2, flip=True),
    ),
    "smollm2-enwik8": RunConfig(
        data="text",
        student="transmamba_lm_tiny",
        student_options={"depth": 6, "bias": True},
        epochs=8,
        batch_size=4,
        text=TextConfig(length=128, size=10_000_000, samples=32, test_samples=32),
        subclone=SubcloneConfig(early=6),
        distill=DistillConfig(calibration="linear", kappa=1.0, beta=0.5),
    ),
    "minilm-enwik8": RunConfig(
        data="sentences",
        student="transmamba_text_small",
        epochs=8,
        batch_size=32,
        text=TextConfig(length=40, size=6_000_000, samples=500, test_samples=500),
        subclone=SubcloneConfig(early=6),
        distill=DistillConfig(calibration="linear", alpha=1.0, beta=1.0, kappa=0.0),
    ),
}

# What may differ between two runs that are the same run: where things lie and how fast they are computed.
# data_dir is no such thing where it says which data it is.
_INCIDENTAL = ("out_dir", "data_dir", "threads", "device", "tensorboard")


def preset(name: str, presets: Mapping[str, Any] = PRESETS) -> Any:
    """Return the preset ``name``, a :class:`RunConfig` or another command's.

    Raises:
        ValueError: There is none of this name; the message lists them.
    """
    if name not in presets:
        raise ValueError(f"unknown preset {name!r}{hint(name, presets)}; presets: {', '.join(presets)}")
    return presets[name]


def to_dict(config: Any) -> dict[str, Any]:
    """The config in types that JSON has."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def identity(config: dict[str, Any]) -> dict[str, Any]:
    """What makes the run of a :func:`to_dict` what it is, flat: ``{"distill.alpha": 0.2, ...}``."""
    own = ("data_dir",) if config.get("data") in OWN_DATA else ()
    return {name: value for name, value in _flat(config).items() if name not in _INCIDENTAL or name in own}


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Say in what two :func:`identity` dicts differ, one text each."""
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    return [f"{name} was {old.get(name)!r} and is now {new.get(name)!r}" for name in names]


def digest(content: Any) -> str:
    """SHA-256 of anything that JSON can hold, the same for the same content."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def hint(name: str, known: Any, prefix: str = "") -> str:
    """Ask in brackets whether the one of ``known`` was meant that is most like ``name``; empty if none is."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {prefix + close[0]!r}?)" if close else ""


def _flat(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in content.items():
        nested = isinstance(value, dict) and prefix + name != "student_options"
        flat |= _flat(value, f"{prefix}{name}.") if nested else {prefix + name: value}
    return flat
