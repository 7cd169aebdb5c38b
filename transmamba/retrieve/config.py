"""Everything a retrieval run can be told, checked when it is made, and the presets."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from transmamba.config import OptimConfig
from transmamba.distill import DistillConfig, SubcloneConfig
from transmamba.layers.checks import int_from_zero, positive_int, ratio_of_mlp
from transmamba.tasks.captions import LAYOUTS

MOVING_MNIST = "moving-mnist"
DATA = (MOVING_MNIST, *LAYOUTS)


@dataclasses.dataclass(frozen=True)
class ClipConfig:
    """A CLIP to train, or a ready one.

    Attributes:
        path: Folder or hub name of a CLIPModel of transformers and its tokenizer; without it one is built and trained.
        hidden_size: Width of both towers of a built one, and of the common space.
        layers: Blocks of its vision tower.
        text_layers: Blocks of its text tower.
        heads: Attention heads of both.
        patch_size: Its patches.
        mlp_ratio: Hidden units of its MLPs over hidden_size.
        max_length: Tokens of the longest text.
        vocab_size: Words it knows at most, the most frequent ones of the training captions.
        frames: Frames of each clip that a step of its training looks at, one at random of each of so many equal parts.
        epochs: Epochs of its training.
        batch_size: Pairs per step.
        seed: Of its weights and of the order of its data.
        optim: Its optimiser.
    """

    path: str | None = None
    hidden_size: int = 64
    layers: int = 3
    text_layers: int = 2
    heads: int = 4
    patch_size: int = 8
    mlp_ratio: float = 2.0
    max_length: int = 32
    vocab_size: int = 10_000
    frames: int = 3
    epochs: int = 15
    batch_size: int = 64
    seed: int = 0
    optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)

    def __post_init__(self) -> None:
        names = ("hidden_size", "layers", "text_layers", "heads", "patch_size", "frames", "epochs")
        positive_int(**{name: getattr(self, name) for name in names})
        int_from_zero(seed=self.seed)
        ratio_of_mlp(self.mlp_ratio)
        for name, least in (("batch_size", 2), ("max_length", 3), ("vocab_size", 8)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.hidden_size % self.heads:
            raise ValueError(f"heads must divide hidden_size {self.hidden_size}, got {self.heads}")


@dataclasses.dataclass(frozen=True)
class RetrieveConfig:
    """One text-video retrieval: data, CLIP, student, and how long they learn.

    Attributes:
        data: Data set: "moving-mnist", which is made from MNIST, "msr-vtt", "didemo", or "table", a folder with
            train.csv and test.csv, whose columns are video and caption.
        data_dir: Folder of its files; of moving-mnist the four idx files of MNIST.
        train_clips: Clips of moving-mnist to train on.
        test_clips: Clips of moving-mnist to search among.
        frames: Frames of a video that are looked at.
        image_size: Their height and width.
        channels: 3 for colours, 1 for grey.
        student: Name of a model of videos and texts, as in transmamba.models.list_models().
        video_options: Options of its video tower, as NAME VALUE pairs.
        text_options: Options of its text tower, as NAME VALUE pairs.
        epochs: Epochs of the adaptation and of the scratch baseline.
        batch_size: Pairs per step; each is told from all others of its batch.
        scratch: Train the baseline: the same student from its own initialisation, by the contrastive loss alone.
        seed: Of the student's weights, the order of the data and the clips of moving-mnist.
        out_dir: Folder of the run; runs/<data>-seed<seed> if not given.
        threads: CPU threads; torch's choice if not given.
        device: Where to compute, such as "cpu" or "cuda".
        teacher: The CLIP.
        subclone: What the student takes over from it.
        distill: How the student learns from it.
        optim: Optimiser of student and scratch baseline.
    """

    data: str = MOVING_MNIST
    data_dir: str | None = None
    train_clips: int = 6000
    test_clips: int = 1000
    frames: int = 6
    image_size: int = 32
    channels: int = 3
    student: str = "transmamba_video_text_micro"
    video_options: dict[str, int | float | bool | str] = dataclasses.field(default_factory=dict)
    text_options: dict[str, int | float | bool | str] = dataclasses.field(default_factory=dict)
    epochs: int = 10
    batch_size: int = 64
    scratch: bool = True
    seed: int = 0
    out_dir: str | None = None
    threads: int | None = None
    device: str = "cpu"
    teacher: ClipConfig = dataclasses.field(default_factory=ClipConfig)
    subclone: SubcloneConfig = dataclasses.field(default_factory=SubcloneConfig)
    distill: DistillConfig = dataclasses.field(default_factory=DistillConfig)
    optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)

    def __post_init__(self) -> None:
        if self.data not in DATA:
            raise ValueError(f"data must be one of {', '.join(DATA)}, got {self.data!r}")
        names = ("train_clips", "test_clips", "frames", "image_size", "epochs")
        positive_int(**{name: getattr(self, name) for name in names})
        int_from_zero(seed=self.seed)
        if self.batch_size < 2:
            raise ValueError(
                f"batch_size must be at least 2, for a pair is told from the others; got {self.batch_size}"
            )
        if self.frames % self.teacher.frames and self.teacher.path is None:
            raise ValueError(f"teacher.frames must divide frames {self.frames}, got {self.teacher.frames}")
        if self.channels not in (1, 3):
            raise ValueError(f"channels must be 1 or 3, got {self.channels}")

    @property
    def folder(self) -> Path:
        """Folder of the run."""
        return Path(self.out_dir) if self.out_dir else Path("runs") / f"{self.data}-seed{self.seed}"


PRESETS = {
    MOVING_MNIST: RetrieveConfig(
        channels=1,
        epochs=12,
        subclone=SubcloneConfig(early=3),
        # Little of the teacher's similarities: it takes clips for alike that differ in the order of their frames.
        distill=DistillConfig(beta=1.0, kappa=0.05, alpha_decay=0.5),
        optim=OptimConfig(learning_rate=2e-3),
        teacher=ClipConfig(optim=OptimConfig(learning_rate=2e-3)),
    ),
}
