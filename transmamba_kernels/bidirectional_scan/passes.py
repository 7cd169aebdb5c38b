"""The two passes of a bidirectional scan: two directions of a multi_scan, one of them from the end."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from transmamba_kernels.multi_scan.directions import Gradients, Z, allocate, scan

SCAN = 9  # tensors of one scan, z among them


def split(tensors: tuple[Any, ...]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """The tensors of each direction: what the reverse one does not have of its own it shares."""
    forward, own = (*tensors[:Z], *tensors[Z + 1 : SCAN]), tensors[SCAN:]
    return forward, tuple(f if o is None else o for f, o in zip(forward, own, strict=True))


def allocate_forward(*arguments) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """``(out, last_state, checkpoints)``; the latter two are None where they are not asked for."""
    *tensors, backend, _softplus, merge, with_state, for_backward = arguments
    return allocate(backend, split(tuple(tensors)), True, merge, with_state, for_backward)


def forward(*arguments) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Run both scans; shapes as in the public function, arguments as in the operator's schema."""
    *tensors, backend, softplus, merge, with_state, for_backward = arguments
    directions = split(tuple(tensors))
    return scan(backend, directions, tensors[Z], None, softplus, True, merge, with_state, for_backward)


def allocate_backward(*arguments) -> tuple[Tensor | None, ...]:
    """Gradients in the order of the operator's tensors; None where not needed."""
    *tensors, backend, _softplus, _merge, _checkpoints, _dout, _dlast_state, needed = arguments
    return _joined(_gradients(backend, tuple(tensors), needed))


def backward(*arguments) -> tuple[Tensor | None, ...]:
    """Gradients in the order of the operator's tensors; None where not needed."""
    *tensors, backend, softplus, _merge, checkpoints, dout, dlast_state, needed = arguments
    gradients = _gradients(backend, tuple(tensors), needed)
    gradients.fill(None, softplus, checkpoints, dout, dlast_state)
    return _joined(gradients)


def _gradients(backend: str, tensors: tuple[Any, ...], needed: list[bool]) -> Gradients:
    forward, own = [*needed[:Z], *needed[Z + 1 : SCAN]], needed[SCAN:]
    shared = [tensor is None for tensor in tensors[SCAN:]]
    reverse = [f if s else o for f, s, o in zip(forward, shared, own, strict=True)]
    return Gradients(backend, split(tensors), tensors[Z], True, [forward, reverse], needed[Z])


def _joined(gradients: Gradients) -> tuple[Tensor | None, ...]:
    forward, reverse = gradients.finish()
    return (*forward[:Z], gradients.dz, *forward[Z:], *reverse)
