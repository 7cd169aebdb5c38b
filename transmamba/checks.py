"""Checks of options: each message names the option, what is allowed and what was given."""

from __future__ import annotations

import math
from typing import Any


def within(config: Any, low: float, high: float, *names: str) -> None:
    """Raise unless these options are from ``low`` to ``high``, and finite."""
    for name in names:
        value = getattr(config, name)
        if not low <= value <= high or value == math.inf:
            allowed = f"at least {low}" if high == math.inf else f"from {low} to {high}"
            raise ValueError(f"{name} must be {allowed}, got {value}")


def positive(config: Any, *names: str) -> None:
    """Raise unless these options are above 0, and finite."""
    for name in names:
        if not 0 < getattr(config, name) < math.inf:
            raise ValueError(f"{name} must be positive, got {getattr(config, name)}")


def fraction(config: Any, *names: str) -> None:
    """Raise unless these options are above 0 and at most 1."""
    for name in names:
        if not 0 < getattr(config, name) <= 1:
            raise ValueError(f"{name} must be above 0 and at most 1, got {getattr(config, name)}")


def at_least(config: Any, least: int, *names: str) -> None:
    """Raise unless these options are integers of at least ``least``."""
    for name in names:
        value = getattr(config, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")
