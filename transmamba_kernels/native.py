"""The compiled CPU module, or the reason why there is none."""

from __future__ import annotations

import importlib
from types import ModuleType

module: ModuleType | None = None
problem: str | None = None

try:
    module = importlib.import_module("transmamba_kernels._native")
except ImportError as error:
    problem = (
        f"the compiled module does not load ({error}); build it with `pip install -e .` in a clone of the "
        "repository, or reinstall the package"
    )


def load() -> ModuleType:
    """Return the compiled module.

    Raises:
        ImportError: It is missing; the message says why and what to do.
    """
    if module is None:
        raise ImportError(problem)
    return module
