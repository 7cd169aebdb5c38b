"""Tasks: the data, the loss and the metric of what a student is adapted to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from transmamba.tasks.classification import ImageData, accuracy, load_images, random_shift, subset
from transmamba.tasks.embedding import load_sentences
from transmamba.tasks.images import DATASETS
from transmamba.tasks.language import load_language
from transmamba.tasks.task import Metric, Task

if TYPE_CHECKING:
    from transmamba.config import RunConfig

__all__ = ["DATASETS", "ImageData", "Metric", "Task", "accuracy", "load_images", "load_task", "random_shift", "subset"]


TEXTS = {"text": load_language, "sentences": load_sentences}


def load_task(config: RunConfig) -> Task:
    """Load the data of a run.

    Raises:
        ValueError, FileNotFoundError, ImportError: As of the task's loader, such as :func:`load_images`.
    """
    if config.data in TEXTS:
        return TEXTS[config.data](config)
    if config.data not in DATASETS:
        raise ValueError(f"unknown data set {config.data!r}; known: {', '.join([*DATASETS, *TEXTS])}")
    return load_images(config.data, config.data_dir, config.image_size, config.channels)
