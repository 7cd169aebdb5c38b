"""Operators of torch.library: a schema, a fake that knows the shapes, and the kernel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

try:  # Both are private; without them every call takes the registered operator, which is slower but right.
    from torch._C import _len_torch_dispatch_stack
    from torch._C._functorch import maybe_current_level
except ImportError:
    _len_torch_dispatch_stack = None  # type: ignore[assignment]

_library = torch.library.Library("transmamba", "DEF")
_PLAIN = (torch.Tensor, torch.nn.Parameter)


def register(schema: str, *, kernel: Callable[..., Any], fake: Callable[..., Any]) -> Callable[..., Any]:
    """Define ``transmamba::name`` and return the operator.

    Gradients are attached around the operator, by an autograd function: differentiating the operator itself is an
    error, and that is what a second derivative meets.

    Args:
        schema: ``"name(Tensor x, ..., str backend, ...) -> ..."``.
        kernel: Runs on real tensors; returns a tensor, or a tuple with None for outputs that were not asked for. The
            operator's own outputs are tensors all: it returns empty ones in their place.
        fake: Allocates outputs of the same shapes, strides and dtypes, and does nothing else.
    """
    name = schema.split("(", 1)[0]
    _library.define(schema, tags=(torch.Tag.pt2_compliant_tag, torch.Tag.needs_fixed_stride_order))
    for device in ("CPU", "CUDA"):
        _library.impl(name, _without_none(kernel), device)
    torch.library.register_fake(f"transmamba::{name}", _without_none(fake), lib=_library)
    return getattr(torch.ops.transmamba, name).default


def _without_none(function: Callable[..., Any]) -> Callable[..., Tensor | tuple[Tensor, ...]]:
    def run(*args: Any) -> Tensor | tuple[Tensor, ...]:
        outputs = function(*args)
        if isinstance(outputs, Tensor):
            return outputs
        return tuple(args[0].new_empty(0) if output is None else output for output in outputs)

    return run


def is_plain_eager(tensors: tuple[Tensor | None, ...]) -> bool:
    """Whether a kernel may be called directly, past the dispatcher: nothing traces, transforms or subclasses."""
    if torch.compiler.is_compiling() or _len_torch_dispatch_stack is None:
        return False
    for tensor in tensors:
        if tensor is not None and type(tensor) not in _PLAIN:
            return False
    return not _len_torch_dispatch_stack() and maybe_current_level() is None
