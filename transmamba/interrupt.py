"""Ctrl-C at a place where the work can be saved."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any


class Interrupted(KeyboardInterrupt):
    """Ctrl-C was pressed, and the training was saved."""


@contextlib.contextmanager
def ctrl_c() -> Iterator[list[bool]]:
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
