"""How a training looks in a terminal."""

from __future__ import annotations

from typing import Any


class Bar:
    """A progress bar with the time that is left, and one line when a training is done.

    Args:
        console: A ``rich.console.Console``; without a terminal behind it only the lines appear.
    """

    def __init__(self, console: Any):
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self.console = console
        self._progress = Progress(
            TextColumn("{task.description:<8}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("steps"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._loss = self._reached = ""

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def start(self, stage: str, steps: int, done: int) -> None:
        """Show a new training in place of the one before."""
        for task in self._progress.task_ids:
            self._progress.remove_task(task)
        self._loss = self._reached = ""
        self._progress.add_task(stage, total=steps, completed=done, note="")
        if 0 < done < steps:
            self.console.print(f"{stage}: going on after step {done} of {steps}")

    def step(self, loss: float | None) -> None:
        """Advance by one step."""
        self._loss = "" if loss is None else f"loss {loss:.3f}"
        self._advance(1)

    def epoch(self, row: dict[str, float], reached: str) -> None:
        """Show what was reached."""
        self._reached = reached
        self._advance(0)

    def _advance(self, steps: int) -> None:
        for task in self._progress.task_ids:
            self._progress.update(task, advance=steps, note=f"{self._loss}  {self._reached}")
