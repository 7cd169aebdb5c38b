"""Tasks: the data, and the metric, of what a student is adapted to."""

from transmamba.tasks.classification import DATASETS, ImageData, accuracy, load_images, random_shift, subset

__all__ = ["DATASETS", "ImageData", "accuracy", "load_images", "random_shift", "subset"]
