"""One training step of a student alone and of the same student distilled from a teacher of its size.

``python -m benchmarks.distillation plain|distilled`` prints by how many MiB the models, the optimiser and three steps
raise this process's peak resident memory.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn
from transformers import ViTConfig

from benchmarks.memory import peak
from transmamba.config import OptimConfig
from transmamba.distill import Distiller
from transmamba.models import create_model
from transmamba.optim import create_optimizer
from transmamba.teachers import create_teacher

CASE = "12 layers of width 192, 65 tokens, batch 16"
KINDS = ("distilled", "plain")


def training(kind: str) -> Callable[[], None]:
    """A step of training, of Vim with a Transformer's MLPs; its teacher is a ViT of the same depth and width.

    Args:
        kind: Of :data:`KINDS`: by all of the distillation's loss, or by cross entropy alone.
    """
    torch.manual_seed(0)
    images, labels = torch.randn(16, 3, 64, 64), torch.randint(0, 100, (16,))
    student = create_model("transmamba_vim_tiny", image_size=64, patch_size=8, num_classes=100)
    trained: nn.Module = student
    if kind == "distilled":
        shape = ViTConfig(
            hidden_size=192,
            num_hidden_layers=12,
            num_attention_heads=3,
            intermediate_size=768,
            image_size=64,
            patch_size=8,
            num_labels=100,
        )
        trained = Distiller(student, create_teacher(shape))
    optimizer = create_optimizer(trained, OptimConfig())

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        if isinstance(trained, Distiller):
            loss = trained.loss(images, labels)[0]
        else:
            loss = F.cross_entropy(trained(images), labels)
        loss.backward()
        optimizer.step()

    trained.train()
    return step


def main(kind: str) -> None:
    """Print the growth of the peak; torch's own start is not counted."""
    torch.set_num_threads(1)
    nn.Linear(8, 8)(torch.randn(8, 8)).sum().backward()
    before = peak()
    step = training(kind)
    for _ in range(3):
        step()
    print((peak() - before) / 2**20)


if __name__ == "__main__":
    main(sys.argv[1])
