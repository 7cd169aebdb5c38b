"""Visual question answering: a student and a text encoder, joined by cross-Mamba and trained on answers."""

from transmamba.vqa.config import PRESETS, VqaConfig
from transmamba.vqa.run import Answerer, Run, evaluate, prepare, train

__all__ = ["PRESETS", "Answerer", "Run", "VqaConfig", "evaluate", "prepare", "train"]
