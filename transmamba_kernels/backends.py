"""Backends: which exist, where each runs, which one serves a call and why the others do not."""

from __future__ import annotations

import importlib
import importlib.util
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from transmamba_kernels import native

Tensors = Sequence["Tensor | None"]
Refuses = Callable[[Sequence[str], Tensors], "str | None"]


class Backend(NamedTuple):
    """One way to run an op.

    Attributes:
        name: As given to ``backend=``; the module of an op that has its kernels has the same name.
        problem: Returns why the backend is missing on this machine, or None when it is there.
        refuses: Called with the names of an op's tensors and the tensors (or None), which
            :func:`transmamba_kernels.checks.are_float_tensors` has let through: they are on the device of the first,
            and what an op lets be complex it has to look at itself. Returns why the backend does not serve them, or
            None when it does.
    """

    name: str
    problem: Callable[[], str | None]
    refuses: Refuses


def _cpp_problem() -> str | None:
    return native.problem


def _cpp_refuses(names: Sequence[str], tensors: Tensors) -> str | None:
    if native.problem is not None:
        return native.problem
    first = tensors[0]
    assert first is not None
    return None if first.is_cpu else f"runs on the CPU, {names[0]} is on {first.device}"


# What does not change while the process lives is a constant to torch.compile, which then need not look into it.
@torch.compiler.assume_constant_result
def _cuda_problem() -> str | None:
    return native.find_cuda()[1]


@torch.compiler.assume_constant_result
def _cuda_device_type() -> str:
    return native.load_cuda().device_type


def _cuda_refuses(names: Sequence[str], tensors: Tensors) -> str | None:
    problem = _cuda_problem()
    return problem if problem is not None else _gpu_refuses(_cuda_device_type(), names, tensors)


@torch.compiler.assume_constant_result
def _triton_problem() -> str | None:
    return _find_triton()


@lru_cache(maxsize=1)
def _find_triton() -> str | None:
    if importlib.util.find_spec("triton") is None:
        return "is not installed (it comes with the CUDA builds of torch)"
    if _triton_device_type() == "cpu" or torch.cuda.is_available():
        return None
    return "is installed, but torch finds no GPU"


@torch.compiler.assume_constant_result
def _triton_device_type() -> str:
    return "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"  # Triton's own switch, for its interpreter


def _triton_refuses(names: Sequence[str], tensors: Tensors) -> str | None:
    problem = _triton_problem()
    return problem if problem is not None else _gpu_refuses(_triton_device_type(), names, tensors)


def _gpu_refuses(device_type: str, names: Sequence[str], tensors: Tensors) -> str | None:
    first = tensors[0]
    assert first is not None
    if first.device.type != device_type:
        where = "a GPU" if device_type == "cuda" else "the CPU, in emulation"
        return f"runs on {where}, {names[0]} is on {first.device}"
    for name, tensor in zip(names, tensors, strict=True):
        if tensor is not None and tensor.dtype == torch.float64:
            return f"takes float32, bfloat16 and float16, {name} is float64"
    return None


CPP = Backend("cpp", _cpp_problem, _cpp_refuses)
CUDA = Backend("cuda", _cuda_problem, _cuda_refuses)
TRITON = Backend("triton", _triton_problem, _triton_refuses)
COMPILED = (CPP, CUDA, TRITON)  # best first, where they serve the same tensors


class Backends:
    """The backends of one op: the compiled ones, best first, and the reference, which serves everything.

    Args:
        op: Its name, for messages.
        tensors: Names of its tensors, in the order in which they are passed to :meth:`choose`.
        refuses: Why no compiled kernel of this op serves its tensors, asked before a backend is; or None when one may.
        limits: The same for the kernels of single backends, by their names.
    """

    def __init__(self, op: str, tensors: Sequence[str], refuses: Refuses, limits: Mapping[str, Refuses] | None = None):
        self.op = op
        self.tensors = tuple(tensors)
        self.names = (*(row.name for row in COMPILED), "reference")
        self._refuses = refuses
        self._limits = limits or {}
        self._told = False

    def choose(self, wanted: str | None, tensors: Tensors) -> str:
        """Return the name of the backend that serves ``tensors``: ``wanted``, or with None the first that can.

        Raises:
            ValueError: ``wanted`` is no backend of this op.
            NotImplementedError: ``wanted`` does not serve these tensors; the message gives its reason.
        """
        if wanted is not None and wanted not in self.names:
            raise ValueError(f"backend must be one of {', '.join(map(repr, self.names))} or None, got {wanted!r}")
        if wanted == "reference":
            return wanted
        reason = self._refuses(self.tensors, tensors)
        if wanted is None:
            if reason is None:
                for row in COMPILED:
                    if self._reason(row, tensors) is None:
                        return row.name
                self._tell(tensors)
            return "reference"
        reason = reason or self._reason(COMPILED[self.names.index(wanted)], tensors)
        if reason is not None:
            raise NotImplementedError(f"backend {wanted!r} cannot run {self.op} here: it {reason}")
        return wanted

    def _reason(self, row: Backend, tensors: Tensors) -> str | None:
        reason = row.refuses(self.tensors, tensors)
        if reason is None and row.name in self._limits:
            reason = self._limits[row.name](self.tensors, tensors)
        return reason

    def run(self, function: str, behind: int) -> Callable[..., Any]:
        """Return ``function`` of whichever backend's module a call names.

        Args:
            behind: The number of the arguments in front of the backend's name, which is not handed on.
        """

        def run(*arguments: Any) -> Any:
            chosen = getattr(kernels(self.op, arguments[behind]), function)
            return chosen(*arguments[:behind], *arguments[behind + 1 :])

        return run

    def _tell(self, tensors: Tensors) -> None:
        """Warn once where the kernels for these tensors' device are missing: the reference is many times slower."""
        first = tensors[0]
        assert first is not None
        rows = (CPP,) if first.is_cpu else (CUDA, TRITON) if first.is_cuda else ()
        problems = [(row.name, row.problem()) for row in rows]
        if self._told or not problems or any(problem is None for _, problem in problems):
            return
        self._told = True
        reasons = "; ".join(f"{name} {problem}" for name, problem in problems)
        warnings.warn(f"{self.op} runs on its slow reference implementation: {reasons}", RuntimeWarning, stacklevel=4)


@lru_cache(maxsize=64)
def kernels(op: str, name: str) -> ModuleType:
    """The module of an op that has its kernels for a backend."""
    return importlib.import_module(f"transmamba_kernels.{op}.{name}")


def availability() -> dict[str, str | None]:
    """Every backend of the package, and why it is missing on this machine; None where it is there."""
    return {**{row.name: row.problem() for row in COMPILED}, "reference": None}
