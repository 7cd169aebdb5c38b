"""How a text should take part: cross-Mamba's modes beside no text, late fusion and tokens joined in front.

``python -m benchmarks.cross_modal`` trains each on the same small scenes, with three seeds. It writes
``benchmarks/results/cross_modal.json`` after every training and goes on from there; `make docs` makes the table.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.machine import machine_record
from transmamba.config import OptimConfig
from transmamba.files import write_json
from transmamba.layers import BiMamba
from transmamba.models import create_model, with_text
from transmamba.train import Plan, Trainer, plain

RESULTS = Path(__file__).parent / "results" / "cross_modal.json"
SEEDS = (0, 1, 2)
EPOCHS, STEPS, BATCH = 4, 150, 64  # STEPS of each epoch
KINDS, OBJECTS, GRID = 6, 4, 4  # colors and shapes each, objects of a scene, cells along a side
STUDENT = {"in_channels": 3, "d_model": 32, "depth": 2, "d_state": 8, "num_classes": KINDS}
TEXT = {"vocab_size": KINDS + 2, "d_model": 32, "depth": 1, "d_state": 8}


class Scenes:
    """Images of 8 x 8 with four objects in a grid of 4 x 4, colors and shapes all different; a question names a color.

    A shape is one of the six ways to light two of a cell's four pixels. The answer is the shape of that color:
    ``scenes[indices]`` is ``(images, ids, answers)``, with chance at 1/6.
    """

    def __init__(self, count: int, seed: int, objects: int = OBJECTS):
        random = torch.Generator().manual_seed(seed)

        def draw(many: int) -> Tensor:
            return torch.rand(count, many, generator=random).argsort(1)[:, :objects]

        cells, colors, shapes = draw(GRID**2), draw(KINDS), draw(KINDS)
        palette = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [0, 1, 1], [1, 0, 1]]).float() * 2 - 1
        lit = torch.combinations(torch.arange(4))
        pixels = torch.full((count, GRID**2, 4, 3), -1.0)
        scene = torch.arange(count)[:, None]
        for pixel in lit[shapes].unbind(-1):
            pixels[scene, cells, pixel] = palette[colors]
        grid = pixels.reshape(count, GRID, GRID, 2, 2, 3).permute(0, 5, 1, 3, 2, 4)
        self.images = grid.reshape(count, 3, 2 * GRID, 2 * GRID)
        # "what shape is <color>", the first two words always the same.
        self.ids = torch.cat([torch.tensor([[0, 1]]).expand(count, -1), 2 + colors[:, :1]], dim=1)
        self.answers = shapes[:, 0]

    def __len__(self) -> int:
        return len(self.answers)

    def __getitem__(self, indices: Any) -> tuple[Tensor, Tensor, Tensor]:
        return self.images[indices], self.ids[indices], self.answers[indices]


def single_objects(count: int, seed: int) -> Scenes:
    """Scenes with one object each, whose answer is both its color and its shape: 36 classes."""
    scenes = Scenes(count, seed, objects=1)
    scenes.answers = scenes.answers * KINDS + scenes.ids[:, 2] - 2
    return scenes


class NoText(nn.Module):
    """The student alone, whatever is asked."""

    def __init__(self, student: nn.Module):
        super().__init__()
        self.student = student

    def forward(self, images: Tensor, _ids: Tensor) -> Tensor:
        return self.student(images)


class LateFusion(nn.Module):
    """Features of the image and of the question side by side under a hidden layer."""

    def __init__(self, student: Any, text: Any):
        super().__init__()
        self.student, self.text = student, text
        width = STUDENT["d_model"]
        self.head = nn.Sequential(nn.Linear(2 * width, 4 * width), nn.GELU(), nn.Linear(4 * width, KINDS))

    def forward(self, images: Tensor, ids: Tensor) -> Tensor:
        return self.head(torch.cat([self.student.forward_features(images), self.text(ids)], dim=-1))


class Joined(nn.Module):
    """In place of a cross-Mamba block: the words in front of the image's tokens, one bidirectional scan over both."""

    def __init__(self, width: int):
        super().__init__()
        self.norm, self.project = nn.LayerNorm(width), nn.Linear(width, width)
        self.mixer, self.gate = BiMamba(width, d_state=STUDENT["d_state"]), nn.Parameter(torch.zeros(width))
        for skip in (self.mixer.D, self.mixer.D_b):  # as CrossMamba, which has none
            nn.init.zeros_(skip).requires_grad_(False)

    def forward(self, x: Tensor, text: Tensor, mask: Tensor | None) -> Tensor:
        joined = torch.cat([self.project(text), self.norm(x)], dim=1)
        return x + self.gate * self.mixer(joined, mask)[:, text.shape[1] :]


def build(variant: str) -> nn.Module:
    """The model of a variant at its start."""
    student: Any = create_model("transmamba_vim_micro", **STUDENT)
    if variant == "no text":
        return NoText(student)
    text: Any = create_model("transmamba_text_micro", **TEXT)
    if variant == "late fusion":
        return LateFusion(student, text)
    mode, _, delta = (variant if variant in MODES else "query_pool").partition(" + ")
    model = with_text(student, text, mode, text_delta=bool(delta), layers=(0,), d_state=STUDENT["d_state"])
    if variant == "joined":
        model.cross = nn.ModuleList([Joined(STUDENT["d_model"])])
    if variant == "query_pool, adapted":
        alone = NoText(student)
        head, student.head = student.head, nn.Linear(STUDENT["d_model"], KINDS**2)
        fit(alone, single_objects(BATCH * STEPS, 100), single_objects(500, 101), 0)
        student.head = head
    return model


MODES = ("query_pool", "query_attn", "state", "kv", "query_pool + text_delta")
VARIANTS = (*MODES, "joined", "late fusion", "no text", "query_pool, adapted")


def fit(model: nn.Module, train: Scenes, test: Scenes, seed: int) -> list[dict[str, float]]:
    """Train, and return a row with the accuracy on ``test`` for each epoch."""

    @torch.no_grad()
    def measure() -> dict[str, float]:
        model.eval()
        images, ids, answers = test[slice(None)]
        right = model(images, ids).argmax(-1) == answers
        model.train()
        return {"accuracy": right.double().mean().item()}

    def loss(images: Tensor, ids: Tensor, answers: Tensor) -> Tensor:
        return F.cross_entropy(model(images, ids), answers)

    plan = Plan("scenes", train, EPOCHS, BATCH, seed, OptimConfig(learning_rate=3e-3))
    trainer = Trainer(plan, model, plain(loss), measure)
    trainer.run()
    return trainer.history


def main() -> None:
    """Do what is missing in the results."""
    empty = {"machine": machine_record(1), "steps": STEPS, "batch": BATCH, "runs": {}}
    results = json.loads(RESULTS.read_text()) if RESULTS.is_file() else empty
    for seed in SEEDS:
        for variant in VARIANTS:
            key = f"{variant}, seed {seed}"
            if key in results["runs"]:
                continue
            torch.manual_seed(seed)
            model = build(variant)
            began = time.process_time()
            history = fit(model, Scenes(BATCH * STEPS, seed), Scenes(2000, 1000), seed)
            results["runs"][key] = {str(row["step"]): row["accuracy"] for row in history}
            write_json(RESULTS, results)
            print(key, results["runs"][key], f"{time.process_time() - began:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
