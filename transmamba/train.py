"""One training loop for teacher, scratch baseline and adaptation; it stops anywhere and goes on bit for bit."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler, TensorDataset

from transmamba.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from transmamba.config import OptimConfig
from transmamba.optim import Ema, create_optimizer, learning_rate
from transmamba.tasks import accuracy, random_shift

# Images, targets (class probabilities) and the part of the training that is done; the loss, and metrics to be shown.
Loss = Callable[[Tensor, Tensor, float], "tuple[Tensor, dict[str, Tensor]]"]


class TrainingError(RuntimeError):
    """The training cannot go on; the message says why and what can be done."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C was pressed, and the training was saved."""


class Watcher(Protocol):
    """What follows a training, such as :class:`transmamba.progress.Bar`."""

    def start(self, stage: str, steps: int, done: int) -> None:
        """A training of ``steps`` begins, ``done`` of which lie behind it."""

    def step(self, loss: float) -> None:
        """One step was made."""

    def epoch(self, row: dict[str, float]) -> None:
        """An epoch ended; its row of the history."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is trained on what, and for how long.

    Attributes:
        stage: Name of the training.
        train, test: Data; the test data is measured at the end of epochs and decides about nothing.
        epochs, batch_size, seed, shift, optim, accumulate, precision: As in :class:`transmamba.config.RunConfig`.
        origin: Text that differs when the training would start from something else; a checkpoint with another origin
            is refused.
    """

    stage: str
    train: TensorDataset
    test: TensorDataset
    epochs: int
    batch_size: int
    seed: int
    shift: int = 0
    optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)
    origin: str = ""
    accumulate: int = 1
    precision: str = "float32"

    @property
    def steps_per_epoch(self) -> int:
        """Steps of one epoch; the last may have fewer images."""
        return -(-len(self.train) // self.batch_size)

    @property
    def steps(self) -> int:
        """Steps of the whole training."""
        return self.epochs * self.steps_per_epoch


class EpochSampler(Sampler[list[int]]):
    """Batches of indices of one epoch; epoch and position say everything about the order.

    Attributes:
        epoch: Which shuffle.
        position: Batches that are left out at its beginning.
    """

    def __init__(self, length: int, batch_size: int, seed: int):
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.epoch, self.position = 0, 0

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(self.length, generator=generator)
        return iter([batch.tolist() for batch in order.split(self.batch_size)[self.position :]])

    def __len__(self) -> int:
        return -(-self.length // self.batch_size) - self.position


class Trainer:
    """Trains ``model`` by ``plan``, with a checkpoint at the end of each epoch and on Ctrl-C.

    Args:
        plan: A :class:`Plan`.
        model: Everything that is in the state: parameters that require a gradient are trained.
        loss: Called on each batch.
        predict: The module whose logits are measured on the test data; ``model`` or a part of it.
        checkpoint: File to go on from, if it is there, and to write; None keeps nothing.
        watcher: Told about the progress.

    Attributes:
        step: Steps that are done.
        history: One row per finished epoch: ``step``, ``epoch``, ``accuracy``, and means of ``loss`` and the metrics.
        seconds: Time spent in all sittings.
    """

    def __init__(
        self,
        plan: Plan,
        model: nn.Module,
        loss: Loss,
        predict: nn.Module,
        checkpoint: Path | None = None,
        watcher: Watcher | None = None,
    ):
        self.plan, self.model, self.loss, self.predict = plan, model, loss, predict
        self.checkpoint, self.watcher = checkpoint, watcher
        self.device = next(model.parameters()).device
        self.optimizer = create_optimizer(model, plan.optim)
        self.ema = Ema(model, plan.optim.ema) if plan.optim.ema else None
        self.sampler = EpochSampler(len(plan.train), plan.batch_size, plan.seed)
        self.step, self.seconds = 0, 0.0
        self.history: list[dict[str, float]] = []
        self._sums: dict[str, float] = {}
        self._num_classes = int(plan.train.tensors[1].max()) + 1

    def run(self) -> str | None:
        """Train to the end, or from where the checkpoint stands; return the checkpoint's SHA-256.

        Afterwards the model holds the running mean of its weights if there is one.

        Raises:
            TrainingError: The loss is not finite.
            Interrupted: Ctrl-C was pressed; the state is saved as it was between two steps.
            CheckpointError: The checkpoint is damaged or belongs to another training.
        """
        plan = self.plan
        torch.manual_seed(plan.seed)
        if self.checkpoint is not None and self.checkpoint.exists():
            self.load_state_dict(load_checkpoint(self.checkpoint))
        if self.watcher:
            self.watcher.start(plan.stage, plan.steps, self.step)
        self.model.train()
        written: str | None = None
        # The loader draws a seed of its own on every start: from elsewhere, or a resumed run would draw one more.
        loader = DataLoader(plan.train, sampler=self.sampler, batch_size=None, generator=torch.Generator())
        with _ctrl_c() as pressed:
            while self.step < plan.steps:
                began = time.perf_counter()
                self.sampler.epoch, self.sampler.position = divmod(self.step, plan.steps_per_epoch)
                for images, labels in loader:
                    self._step(images.to(self.device), labels.to(self.device))
                    if pressed and self.step % plan.steps_per_epoch:
                        break
                if self.step % plan.steps_per_epoch == 0:
                    self._end_epoch()
                self.seconds += time.perf_counter() - began
                written = self._save()
                if pressed:
                    raise Interrupted(f"stopped {plan.stage} after step {self.step} of {plan.steps}")
        written = written or self._save()
        if self.ema:
            self.model.load_state_dict(self.ema.state)
        return written

    def _step(self, images: Tensor, labels: Tensor) -> None:
        plan, optim = self.plan, self.plan.optim
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(optim, self.step, plan.steps)
        targets = smooth(labels, self._num_classes, optim.label_smoothing)
        images = random_shift(images, plan.shift)
        self.optimizer.zero_grad(set_to_none=True)
        sums: dict[str, Tensor] = {}
        for part, wanted in zip(
            *(t.tensor_split(min(plan.accumulate, len(t))) for t in (images, targets)), strict=True
        ):
            with torch.autocast(self.device.type, torch.bfloat16, enabled=plan.precision == "bfloat16"):
                loss, metrics = self.loss(part, wanted, self.step / plan.steps)
            share = len(part) / len(images)
            for name, metric in {"loss": loss.detach(), **metrics}.items():
                if metric.ndim == 0:
                    sums[name] = sums.get(name, 0.0) + share * metric
            (share * loss).backward()
        value = sums["loss"].item()
        if not math.isfinite(value):
            raise TrainingError(
                f"the loss of {plan.stage} is {value} at step {self.step + 1} of {plan.steps}; "
                "a lower learning rate (--optim.learning-rate) or --optim.grad-clip may help"
            )
        if optim.grad_clip:
            trained = [p for group in self.optimizer.param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(trained, optim.grad_clip)
        self.optimizer.step()
        self.step += 1
        if self.ema:
            self.ema.update(self.model)
        for name, metric in sums.items():
            self._sums[name] = self._sums.get(name, 0.0) + metric.item()
        if self.watcher:
            self.watcher.step(value)

    def _end_epoch(self) -> None:
        per_epoch = self.plan.steps_per_epoch
        with self.ema.applied(self.model) if self.ema else contextlib.nullcontext():
            reached = accuracy(self.predict, self.plan.test)
        means = {name: total / per_epoch for name, total in self._sums.items()}
        row = {"step": self.step, "epoch": self.step // per_epoch, "accuracy": reached, **means}
        self.history.append(row)
        self._sums = {}
        if self.watcher:
            self.watcher.epoch(row)

    def _save(self) -> str | None:
        return None if self.checkpoint is None else save_checkpoint(self.checkpoint, self.state_dict())

    def state_dict(self) -> dict[str, Any]:
        """Everything that the rest of the training depends on."""
        cuda = torch.cuda.get_rng_state_all() if self.device.type == "cuda" else []
        return {
            "stage": self.plan.stage,
            "origin": self.plan.origin,
            "step": self.step,
            "steps": self.plan.steps,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.state if self.ema else None,
            "rng": {"torch": torch.get_rng_state(), "cuda": cuda},
            "sums": self._sums,
            "history": self.history,
            "seconds": self.seconds,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state_dict`.

        Raises:
            CheckpointError: It belongs to another training.
        """
        expected = {"stage": self.plan.stage, "origin": self.plan.origin, "steps": self.plan.steps}
        for name, value in expected.items():
            if state.get(name) != value:
                raise CheckpointError(
                    f"checkpoint {self.checkpoint} belongs to another training: expected {name} {value!r}, "
                    f"found {state.get(name)!r}"
                )
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.ema:
            self.ema.state = {name: tensor.to(self.device) for name, tensor in state["ema"].items()}
        torch.set_rng_state(state["rng"]["torch"])
        if self.device.type == "cuda" and state["rng"]["cuda"]:
            torch.cuda.set_rng_state_all(state["rng"]["cuda"])
        self.step, self.history, self.seconds = state["step"], state["history"], state["seconds"]
        self._sums = state["sums"]


def smooth(labels: Tensor, num_classes: int, smoothing: float) -> Tensor:
    """Class indices ``(batch,)``, or with smoothing probabilities ``(batch, num_classes)``."""
    if smoothing == 0:
        return labels
    return F.one_hot(labels, num_classes) * (1 - smoothing) + smoothing / num_classes


@contextlib.contextmanager
def _ctrl_c() -> Iterator[list[bool]]:
    """Yield a list that Ctrl-C fills, so that the loop can end its step; a second Ctrl-C stops at once."""
    pressed: list[bool] = []
    if threading.current_thread() is not threading.main_thread():
        yield pressed
        return

    def note(_signal: int, _frame: Any) -> None:
        pressed.append(True)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)
