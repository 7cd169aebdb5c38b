"""Backends: which exist, where each runs, which one serves a call and why the others do not."""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor

from transmamba_kernels import native

Tensors = Sequence["Tensor | None"]


class Backend(NamedTuple):
    """One way to run an op.

    Attributes:
        name: As given to ``backend=``.
        refuses: Called with the names of an op's tensors and the tensors (or None), which
            :func:`transmamba_kernels.checks.are_float_tensors` has let through: they are on the device of the first,
            and what an op lets be complex it has to look at itself. Returns why the backend does not serve them, or
            None when it does.
    """

    name: str
    refuses: Callable[[Sequence[str], Tensors], str | None]


def _cpp_refuses(names: Sequence[str], tensors: Tensors) -> str | None:
    if native.problem is not None:
        return native.problem
    first = tensors[0]
    assert first is not None
    return None if first.is_cpu else f"runs on the CPU, {names[0]} is on {first.device}"


CPP = Backend("cpp", _cpp_refuses)
REFERENCE = Backend("reference", lambda names, tensors: None)


class Backends:
    """The backends of one op, best first.

    Args:
        op: Its name, for messages.
        tensors: Names of its tensors, in the order in which they are passed to :meth:`choose`.
        rows: The backends; the last one serves everything.
    """

    def __init__(self, op: str, tensors: Sequence[str], *rows: Backend):
        self.op = op
        self.tensors = tuple(tensors)
        self.rows = rows
        self.names = tuple(row.name for row in rows)
        self._told = False

    def choose(self, wanted: str | None, tensors: Tensors) -> str:
        """Return the name of the backend that serves ``tensors``: ``wanted``, or with None the first that can.

        Raises:
            ValueError: ``wanted`` is no backend of this op.
            NotImplementedError: ``wanted`` does not serve these tensors; the message gives its reason.
        """
        if wanted is None:
            for row in self.rows:
                reason = row.refuses(self.tensors, tensors)
                if reason is None:
                    return row.name
                if reason is native.problem and not self._told:
                    self._tell(reason)
        if wanted not in self.names:
            raise ValueError(f"backend must be one of {', '.join(map(repr, self.names))} or None, got {wanted!r}")
        reason = self.rows[self.names.index(wanted)].refuses(self.tensors, tensors)
        if reason is not None:
            raise NotImplementedError(f"backend {wanted!r} cannot run {self.op} here: it {reason}")
        return wanted

    def _tell(self, reason: str) -> None:
        self._told = True
        warnings.warn(f"{self.op} runs on its slow reference implementation: {reason}", RuntimeWarning, stacklevel=4)


def availability() -> dict[str, str | None]:
    """Every backend of the package, and why it is missing on this machine; None where it is there."""
    return {"cpp": native.problem, "cuda": _cuda_problem(), "triton": _triton_problem(), "reference": None}


def _cuda_problem() -> str | None:
    try:
        module = importlib.import_module("transmamba_kernels._native_cuda")
    except ImportError:
        return "not built: no CUDA compiler was found at install time (put nvcc on the PATH and install again)"
    names, problem = module.devices()
    built = f"built with CUDA {module.runtime_version()} for {module.architectures}"
    found = f"no device is usable ({problem})" if problem else f"found {', '.join(names)}"
    return f"{built}; {found}; no op of this version has a CUDA kernel yet"


def _triton_problem() -> str | None:
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed (it comes with the CUDA builds of torch)"
    return "triton is installed; no op of this version has a Triton kernel yet"
