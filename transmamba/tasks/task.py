"""What a task is to a run: data, a loss, a measure, and the teacher and student that fit them."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor, nn

from transmamba.distill import Distiller
from transmamba.distill.losses import task_loss
from transmamba.teachers import Teacher

if TYPE_CHECKING:
    from transmamba.config import RunConfig

Batch = tuple[Tensor, ...]


class Dataset(Protocol):
    """Samples of a training: ``dataset[indices]`` is a whole batch, tensors whose first dimension is the samples."""

    def __len__(self) -> int: ...

    def __getitem__(self, indices: list[int], /) -> Batch: ...


@dataclasses.dataclass(frozen=True)
class Metric:
    """The figure that runs of a task are compared by.

    Attributes:
        name: Its key among what is measured.
        form: How it is written, a format specification.
        higher_is_better: Whether more is better.
    """

    name: str = "accuracy"
    form: str = ".2%"
    higher_is_better: bool = True

    def text(self, value: float) -> str:
        """The value as people read it."""
        return f"{value:{self.form}}"

    def reached(self, value: float, wanted: float) -> bool:
        """Whether ``value`` is as good as ``wanted``."""
        return value >= wanted if self.higher_is_better else value <= wanted


class Task(ABC):
    """Data and what is learned from them; :func:`transmamba.tasks.load_task` makes one for a run.

    Attributes:
        name: Of the data.
        train, test: The data, split for good; see :class:`Dataset`.
        metric: What runs are compared by.
        unit: What a sample is called, in plural.
    """

    name: str
    train: Any
    test: Any
    metric: Metric = Metric()
    unit: str = "images"

    @property
    @abstractmethod
    def student_options(self) -> dict[str, Any]:
        """Options of the student that the data decides."""

    @abstractmethod
    def check_student(self, student: nn.Module) -> None:
        """Raise ValueError if ``student`` does not take this data."""

    @abstractmethod
    def build_teacher(self, config: RunConfig) -> Teacher:
        """The teacher of ``config`` before any training.

        Raises:
            ValueError: It does not fit the data; the message says what to change.
            FileNotFoundError, ImportError: As of :func:`transmamba.teachers.create_teacher`.
        """

    @abstractmethod
    def subset(self, fraction: float, seed: int) -> Any:
        """A part of the training data; a smaller fraction is part of a larger one."""

    def augment(self, batch: Batch, config: Any) -> Batch:
        """Change a training batch at random, and smooth its labels, as ``config`` of a run or a teacher says."""
        return batch

    @abstractmethod
    def loss(self, model: nn.Module, *batch: Tensor) -> Tensor:
        """The loss of plain training of a student, or of a teacher's own model, on one batch; a scalar."""

    def criterion(self, output: Tensor, labels: Tensor) -> Tensor:
        """The part of the distillation's loss that compares the student's output with the labels."""
        return task_loss(output, labels)

    def distill(self, distiller: Distiller, *batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """The distiller's loss on one batch, behind which stands the part of the training that is done."""
        return distiller.loss(*batch)

    @abstractmethod
    def measure(self, model: nn.Module) -> dict[str, float]:
        """What ``model``, a student or a teacher, reaches on the test data; :attr:`metric` is among it."""

    def keep(self, folder: Path) -> None:  # noqa: B027, most tasks have nothing
        """Write into a student's folder what it needs beside its weights to be used."""

    @abstractmethod
    def inputs(self, dataset: Any, count: int) -> list[Tensor]:
        """Inputs of the first ``count`` samples in batches, as teacher and student take them."""
