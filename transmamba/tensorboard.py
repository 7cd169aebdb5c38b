"""Progress for TensorBoard, beside what the terminal shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transmamba import processes
from transmamba.train import Watcher


def check_tensorboard() -> None:
    """Raise ImportError if TensorBoard is not installed."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError as error:
        raise ImportError("--tensorboard needs tensorboard: pip install tensorboard") from error


class TensorBoard:
    """Writes the loss of each step, and the figures of each epoch, under the stage's name; tells another watcher too.

    Args:
        folder: Where the event files go.
        watcher: Told the same.
    """

    def __init__(self, folder: Path, watcher: Watcher | None = None):
        from torch.utils.tensorboard import SummaryWriter

        self._watcher, self._stage, self._step = watcher, "", 0
        self._writer: Any = SummaryWriter(str(folder)) if processes.is_first() else None

    def start(self, stage: str, steps: int, done: int) -> None:
        """A training of ``steps`` begins, ``done`` of which lie behind it."""
        self._stage, self._step = stage, done
        if self._watcher:
            self._watcher.start(stage, steps, done)

    def step(self, loss: float | None) -> None:
        """One step was made."""
        self._step += 1
        if loss is not None:
            self._write("loss", loss)
        if self._watcher:
            self._watcher.step(loss)

    def epoch(self, row: dict[str, float], reached: str) -> None:
        """An epoch ended; its row of the history."""
        for name, value in row.items():
            if name not in ("step", "epoch"):
                self._write(f"epoch_{name}", value)
        if self._writer:
            self._writer.flush()
        if self._watcher:
            self._watcher.epoch(row, reached)

    def _write(self, name: str, value: float) -> None:
        if self._writer:
            self._writer.add_scalar(f"{self._stage}/{name}", value, self._step)
