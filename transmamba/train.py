"""One training loop for teacher, scratch baseline and adaptation; it stops anywhere and goes on bit for bit."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler

from transmamba import processes
from transmamba.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from transmamba.config import OptimConfig
from transmamba.interrupt import Interrupted, ctrl_c
from transmamba.optim import Ema, create_optimizer, learning_rate
from transmamba.tasks.task import Batch, Dataset, Metric

# The tensors of a batch and the part of the training that is done; the loss, and metrics to be shown.
Loss = Callable[..., "tuple[Tensor, dict[str, Tensor]]"]


class TrainingError(RuntimeError):
    """The training cannot go on; the message says why and what can be done."""


class Watcher(Protocol):
    """What follows a training, such as :class:`transmamba.progress.Bar`."""

    def start(self, stage: str, steps: int, done: int) -> None:
        """A training of ``steps`` begins, ``done`` of which lie behind it."""

    def step(self, loss: float | None) -> None:
        """One step was made; None where nothing is learned, such as the decoding of a file."""

    def epoch(self, row: dict[str, float], reached: str) -> None:
        """An epoch ended; its row of the history, and its main figure as a text."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is trained on what, and for how long.

    Attributes:
        stage: Name of the training.
        train: A :class:`transmamba.tasks.task.Dataset`.
        epochs, batch_size, seed, optim, accumulate, precision: As in :class:`transmamba.config.RunConfig`.
        origin: Text that differs when the training would start from something else; a checkpoint with another origin
            is refused.
        augment: What is done to a batch before it is used, by torch's random numbers.
        metric: The main figure among what is measured.
    """

    stage: str
    train: Dataset
    epochs: int
    batch_size: int
    seed: int
    optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)
    origin: str = ""
    accumulate: int = 1
    precision: str = "float32"
    augment: Callable[[Batch], Batch] = lambda batch: batch
    metric: Metric = dataclasses.field(default_factory=Metric)

    @property
    def steps_per_epoch(self) -> int:
        """Steps of one epoch; the last may have fewer samples."""
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

    Started in several processes, each takes its part of every batch; see :mod:`transmamba.processes`.

    Args:
        plan: A :class:`Plan`.
        model: Everything that is in the state: parameters that require a gradient are trained.
        loss: Called with the tensors of each batch, and the part of the training that is done.
        measure: Called at the end of epochs, for figures that are shown and kept and decide about nothing.
        checkpoint: File to go on from, if it is there, and to write; None keeps nothing.
        watcher: Told about the progress.

    Attributes:
        step: Steps that are done.
        history: One row per finished epoch: ``step``, ``epoch``, what was measured, means of ``loss`` and the metrics.
        seconds: Time spent in all sittings.
    """

    def __init__(
        self,
        plan: Plan,
        model: nn.Module,
        loss: Loss,
        measure: Callable[[], dict[str, float]],
        checkpoint: Path | None = None,
        watcher: Watcher | None = None,
    ):
        self.plan, self.model, self.measure = plan, model, measure
        self.checkpoint, self.watcher = checkpoint, watcher
        self.device = next(model.parameters()).device
        self._forward = processes.distribute(_Forward(model, loss), self.device.type)
        self.optimizer = create_optimizer(model, plan.optim)
        self.ema = Ema(model, plan.optim.ema) if plan.optim.ema else None
        self.sampler = EpochSampler(len(plan.train), plan.batch_size, plan.seed)
        self.step, self.seconds = 0, 0.0
        self.history: list[dict[str, float]] = []
        self._sums: dict[str, float] = {}

    def run(self) -> str | None:
        """Train to the end, or from where the checkpoint stands; return the checkpoint's SHA-256.

        Afterwards the model holds the running mean of its weights if there is one; shared out among processes (FSDP)
        it is no longer a model of its own, and the checkpoint is what to go on with.

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
        data: Any = plan.train
        loader: DataLoader[Batch] = DataLoader(data, sampler=self.sampler, batch_size=None, generator=torch.Generator())
        with ctrl_c() as pressed:
            while self.step < plan.steps:
                began = time.perf_counter()
                self.sampler.epoch, self.sampler.position = divmod(self.step, plan.steps_per_epoch)
                for batch in loader:
                    self._step(tuple(tensor.to(self.device) for tensor in batch))
                    if self.step % plan.steps_per_epoch and processes.anywhere(bool(pressed)):
                        break
                if self.step % plan.steps_per_epoch == 0:
                    self._end_epoch()
                self.seconds += time.perf_counter() - began
                written = self._save()
                if processes.anywhere(bool(pressed)):
                    raise Interrupted(f"stopped {plan.stage} after step {self.step} of {plan.steps}")
        written = written or self._save()
        if self.ema:
            self.model.load_state_dict(self.ema.state)
        return written

    def _step(self, batch: Batch) -> None:
        plan, optim = self.plan, self.plan.optim
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(optim, self.step, plan.steps)
        batch, weight = processes.share(plan.augment(batch))
        self.optimizer.zero_grad(set_to_none=True)
        sums: dict[str, Tensor] = {}
        samples = len(batch[0])
        parts = list(zip(*(t.tensor_split(min(plan.accumulate, samples)) for t in batch), strict=True))
        for i, part in enumerate(parts):
            last = i == len(parts) - 1
            with contextlib.nullcontext() if last else processes.alone(self._forward):
                with torch.autocast(self.device.type, torch.bfloat16, enabled=plan.precision == "bfloat16"):
                    loss, metrics = self._forward(*part, self.step / plan.steps)
                share = weight * len(part[0]) / samples
                for name, metric in {"loss": loss.detach(), **metrics}.items():
                    if metric.ndim == 0:
                        sums[name] = sums.get(name, 0.0) + share * metric
                (share * loss).backward()
        sums = processes.means(sums)
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
        averaged = self.ema.applied(self.model) if self.ema else contextlib.nullcontext()
        with averaged, processes.gathered(self._forward):
            measured = self.measure()
        means = {name: total / per_epoch for name, total in self._sums.items()}
        row = {"step": self.step, "epoch": self.step // per_epoch, **measured, **means}
        self.history.append(row)
        self._sums = {}
        if self.watcher:
            metric = self.plan.metric
            self.watcher.epoch(row, f"{metric.name} {metric.text(row[metric.name])}")

    def _save(self) -> str | None:
        if self.checkpoint is None:
            return None
        return processes.from_first(save_checkpoint(self.checkpoint, self.state_dict()))

    def state_dict(self) -> dict[str, Any]:
        """Everything that the rest of the training depends on."""
        cuda = torch.cuda.get_rng_state_all() if self.device.type == "cuda" else []
        return {
            "stage": self.plan.stage,
            "origin": self.plan.origin,
            "step": self.step,
            "steps": self.plan.steps,
            "model": processes.whole(self.model.state_dict()),
            "optimizer": processes.whole(self.optimizer.state_dict()),
            "ema": processes.whole(self.ema.state) if self.ema else None,
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
        own = self.model.state_dict()
        self.model.load_state_dict(_shared(state["model"], own))
        trained = dict(enumerate(p for group in self.optimizer.param_groups for p in group["params"]))
        moments = {
            i: _shared(of_one, dict.fromkeys(of_one, trained[i])) for i, of_one in state["optimizer"]["state"].items()
        }
        self.optimizer.load_state_dict({**state["optimizer"], "state": moments})
        if self.ema:
            self.ema.state = _shared({name: tensor.to(self.device) for name, tensor in state["ema"].items()}, own)
        torch.set_rng_state(state["rng"]["torch"])
        if self.device.type == "cuda" and state["rng"]["cuda"]:
            torch.cuda.set_rng_state_all(state["rng"]["cuda"])
        self.step, self.history, self.seconds = state["step"], state["history"], state["seconds"]
        self._sums = state["sums"]


class _Forward(nn.Module):
    """The loss as a module's forward, which is what gathers gradients from several processes."""

    def __init__(self, model: nn.Module, loss: Loss):
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, *arguments: Any) -> tuple[Tensor, dict[str, Tensor]]:
        return self.loss(*arguments)


def plain(loss: Callable[..., Tensor]) -> Loss:
    """``loss`` of the tensors of a batch as the trainer calls it: without metrics, whatever part is done."""
    return lambda *arguments: (loss(*arguments[:-1]), {})


def _shared(state: dict[str, Any], own: dict[str, Tensor]) -> dict[str, Any]:
    return {name: processes.shared_like(value, own[name]) for name, value in state.items()}
