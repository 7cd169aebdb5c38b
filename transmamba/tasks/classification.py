"""Image classification: images as tensors, subsets of them, a light augmentation, accuracy."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from transmamba.tasks.images import DATASETS
from transmamba.tasks.task import Batch, Task
from transmamba.teachers import Teacher, create_teacher
from transmamba.teachers.teacher import import_transformers

if TYPE_CHECKING:
    from transmamba.config import RunConfig

BACKGROUND = -1.0  # black


@dataclasses.dataclass(frozen=True)
class ImageData(Task):
    """Images and their classes, split for good.

    Attributes:
        name: As in :data:`transmamba.tasks.DATASETS`.
        train, test: Pairs of images ``(channels, size, size)``, float32 in [-1, 1], and labels, int64.
        num_classes: Labels are from 0 to below it.
    """

    name: str
    train: TensorDataset
    test: TensorDataset
    num_classes: int

    @property
    def channels(self) -> int:
        """Channels of each image."""
        return self.train.tensors[0].shape[1]

    @property
    def size(self) -> int:
        """Height and width of each image."""
        return self.train.tensors[0].shape[2]

    @property
    def student_options(self) -> dict[str, Any]:
        """Size and channels of the images, and their classes."""
        return {"image_size": self.size, "in_channels": self.channels, "num_classes": self.num_classes}

    def check_student(self, student: nn.Module) -> None:
        """Raise ValueError if ``student`` takes something else than single images."""
        if len(student.grid or ()) != 2:  # type: ignore[arg-type]
            raise ValueError(f"student {student.name} does not take images one at a time")

    def build_teacher(self, config: RunConfig) -> Teacher:
        """A ViT with random weights, or the classifier from the teacher's path, with another head where asked for."""
        options = config.teacher
        if options.path is None:
            return create_teacher(self._vit_config(config))
        teacher = create_teacher(options.path)
        model: Any = teacher.model
        if teacher.grid is None or not teacher.spec.head:
            raise ValueError(f"the teacher must classify images, got {type(model).__name__}")
        size, channels = model.config.image_size, model.config.num_channels
        if size not in (self.size, (self.size, self.size), [self.size, self.size]):
            raise ValueError(
                f"the teacher takes images of size {size}, the data has {self.size}: give --image-size {size}"
            )
        if channels != self.channels:
            raise ValueError(
                f"the teacher takes {channels} image channels, the data has {self.channels}: give --channels {channels}"
            )
        if teacher.num_classes != self.num_classes:
            if not options.fine_tune:
                raise ValueError(
                    f"the teacher knows {teacher.num_classes} classes, the data has {self.num_classes}: "
                    "give --teacher.fine-tune"
                )
            teacher = _with_new_head(teacher, self.num_classes)
        return teacher

    def subset(self, fraction: float, seed: int) -> TensorDataset:
        """``fraction`` of every class; see :func:`subset`."""
        return subset(self.train, fraction, seed)

    def augment(self, batch: Batch, config: Any) -> Batch:
        """Mirrored and shifted images, and smoothed labels."""
        images, labels = batch
        images = random_shift(random_flip(images) if config.flip else images, config.shift)
        return images, smooth(labels, self.num_classes, config.optim.label_smoothing)

    def loss(self, model: nn.Module, *batch: Tensor) -> Tensor:
        """Cross-entropy with class indices or probabilities."""
        images, targets = batch
        return F.cross_entropy(_logits(model(images)), targets)

    def measure(self, model: nn.Module) -> dict[str, float]:
        """``accuracy`` on the test images."""
        return {"accuracy": accuracy(model, self.test)}

    def inputs(self, dataset: TensorDataset, count: int) -> list[Tensor]:
        """The first images, in batches of 256."""
        return list(dataset.tensors[0][:count].split(256))

    def _vit_config(self, config: RunConfig) -> Any:
        options = config.teacher
        if options.patch_size > self.size:
            raise ValueError(f"teacher.patch_size must be at most the image's {self.size}, got {options.patch_size}")
        return import_transformers().ViTConfig(
            hidden_size=options.hidden_size,
            num_hidden_layers=options.layers,
            num_attention_heads=options.heads,
            intermediate_size=round(options.mlp_ratio * options.hidden_size),
            image_size=self.size,
            patch_size=options.patch_size,
            num_channels=self.channels,
            num_labels=self.num_classes,
            layer_norm_eps=1e-6,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )


def load_images(
    name: str,
    folder: str | Path | None = None,
    image_size: int | None = None,
    channels: int | None = None,
) -> ImageData:
    """Load one of :data:`DATASETS`, such as ``"digits"``.

    Args:
        name: One of :data:`DATASETS`.
        folder: Where the files of a data set lie that is not embedded.
        image_size: Resize to so many pixels; None keeps the images as they are.
        channels: Repeat the grey channel so many times, for teachers that expect colours.

    Raises:
        ValueError: Unknown name, a damaged file, a folder given for an embedded data set or missing for another, or
            another number of channels than the 3 of a colour image.
        FileNotFoundError: A file is missing; the message says how to get it.
        ImportError: scikit-learn, which holds the digits, is not installed.
    """
    if name not in DATASETS:
        raise ValueError(f"unknown data set {name!r}; known: {', '.join(DATASETS)}")
    arrays = DATASETS[name](None if folder is None else Path(folder), image_size)
    train_images, train_labels, test_images, test_labels = (torch.from_numpy(a) for a in arrays)
    train, test = (
        TensorDataset(_prepare(images, image_size, channels), labels.long())
        for images, labels in ((train_images, train_labels), (test_images, test_labels))
    )
    return ImageData(name, train, test, int(train_labels.max()) + 1)


def _prepare(images: Tensor, size: int | None, channels: int | None) -> Tensor:
    """Images as in :data:`DATASETS` into ``(n, channels, size, size)``, float32 from -1 to 1."""
    colour = images.dim() == 4
    if colour and channels not in (None, 3):
        raise ValueError(f"channels must be 3 for images in colour, got {channels}")
    images = images.movedim(-1, 1) if colour else images.unsqueeze(1)
    images = images * (2 / 255 if images.dtype == torch.uint8 else 2) - 1
    if size is not None and size != images.shape[-1]:
        images = F.interpolate(images, size=(size, size), mode="bilinear", antialias=True)
    return images.contiguous() if colour else images.repeat(1, channels or 1, 1, 1)


def subset(dataset: TensorDataset, fraction: float, seed: int) -> TensorDataset:
    """Keep ``fraction`` of every class, at least one image each; a smaller fraction is part of a larger one."""
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must be above 0 and at most 1, got {fraction}")
    if fraction == 1:
        return dataset
    labels, generator = dataset.tensors[1], torch.Generator().manual_seed(seed)
    kept = []
    for c in labels.unique():
        of_class = (labels == c).nonzero().flatten()
        shuffled = of_class[torch.randperm(len(of_class), generator=generator)]
        kept.append(shuffled[: max(1, round(fraction * len(of_class)))])
    chosen = torch.cat(kept).sort().values
    return TensorDataset(*(tensor[chosen] for tensor in dataset.tensors))


def smooth(labels: Tensor, num_classes: int, smoothing: float) -> Tensor:
    """Class indices ``(batch,)``, or with smoothing probabilities ``(batch, num_classes)``."""
    if smoothing == 0:
        return labels
    return F.one_hot(labels, num_classes) * (1 - smoothing) + smoothing / num_classes


def random_flip(images: Tensor) -> Tensor:
    """Mirror half of ``images`` ``(batch, channels, H, W)`` left to right, by torch's RNG."""
    chosen = torch.rand(len(images), 1, 1, 1, device="cpu").to(images.device) < 0.5
    return torch.where(chosen, images.flip(-1), images)


def random_shift(images: Tensor, pixels: int) -> Tensor:
    """Move each of ``images`` ``(batch, channels, H, W)`` by up to ``pixels`` along each axis, by torch's RNG."""
    if pixels == 0:
        return images
    height, width = images.shape[2:]
    padded = F.pad(images, (pixels,) * 4, value=BACKGROUND)
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)
    dy, dx = torch.randint(0, 2 * pixels + 1, (2, len(images)), device="cpu").to(images.device)
    return windows[torch.arange(len(images), device=images.device), :, dy, dx]


@torch.no_grad()
def accuracy(model: nn.Module | Callable[[Tensor], Tensor], dataset: TensorDataset, batch_size: int = 512) -> float:
    """Part of ``dataset`` whose largest logit is the label's; a module is asked in eval mode and put back."""
    training = isinstance(model, nn.Module) and model.training
    device = torch.device("cpu")
    if isinstance(model, nn.Module):
        model.eval()
        device = next(model.parameters()).device
    correct = 0
    for images, labels in zip(*(tensor.split(batch_size) for tensor in dataset.tensors), strict=True):
        output = model(images.to(device))
        correct += int((_logits(output).argmax(-1).cpu() == labels).sum())
    if isinstance(model, nn.Module):
        model.train(training)
    return correct / len(dataset)


def _with_new_head(teacher: Teacher, num_classes: int) -> Teacher:
    name, model = teacher.spec.head, teacher.model
    if name != "classifier":
        raise ValueError(f"{type(model).__name__} has two heads; only a single one can be replaced for other classes")
    setattr(model, name, nn.Linear(teacher.d_model, num_classes))
    config: Any = model.config
    config.num_labels = num_classes
    return Teacher(model)


def _logits(output: Any) -> Tensor:
    return getattr(output, "logits", output)
