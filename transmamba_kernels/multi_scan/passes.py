"""The two passes of a multi-scan: its tensors split into directions, their gradients put together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from transmamba_kernels.multi_scan.arguments import directions, permutations
from transmamba_kernels.multi_scan.directions import PER_TOKEN, Gradients, Z, allocate, scan

SCAN = 9  # tensors of the op, the orders behind them
AXES = (1, 1, 0, 1, 1, 0, 0, 1)  # where the tensors of a direction have their axis K


def allocate_forward(*arguments) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """``(out, last_state, checkpoints)``; the latter two are None where they are not asked for."""
    *tensors, orders, backend, _softplus, merge, permute, with_state, for_backward = arguments
    return allocate(backend, directions(tensors, orders.shape[0]), permute, merge, with_state, for_backward)


def forward(*arguments) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Run the scans; shapes as in the public function, arguments as in the operator's schema."""
    *tensors, orders, backend, softplus, merge, permute, with_state, for_backward = arguments
    each, checked = directions(tensors, orders.shape[0]), permutations(orders, tensors[0].device)
    return scan(backend, each, tensors[Z], checked, softplus, permute, merge, with_state, for_backward)


def allocate_backward(*arguments) -> tuple[Tensor | None, ...]:
    """Gradients in the order of the operator's tensors, but for the orders; None where not needed."""
    *tensors, orders, backend, _softplus, _merge, permute, _checkpoints, _dout, _dlast_state, needed = arguments
    return _Stacked(backend, tensors, orders.shape[0], permute, needed).finished()


def backward(*arguments) -> tuple[Tensor | None, ...]:
    """Gradients in the order of the operator's tensors, but for the orders; None where not needed."""
    *tensors, orders, backend, softplus, _merge, permute, checkpoints, dout, dlast_state, needed = arguments
    stacked = _Stacked(backend, tensors, orders.shape[0], permute, needed)
    stacked.gradients.fill(permutations(orders, tensors[0].device), softplus, checkpoints, dout, dlast_state)
    return stacked.finished()


class _Stacked:
    """The gradients of the directions, and with an axis K those of the op."""

    def __init__(self, backend: str, tensors: Sequence[Any], count: int, permute: bool, needed: Sequence[bool]):
        self.tensors = (*tensors[:Z], *tensors[Z + 1 :])
        each = directions(tensors, count)
        wanted = [*needed[:Z], *needed[Z + 1 : SCAN]]
        self.gradients = Gradients(backend, each, tensors[Z], permute, [wanted] * count, needed[Z])
        self.whole: list[Tensor | None] = [None] * PER_TOKEN
        for i in range(PER_TOKEN):  # written in place: these are as large as the input
            if wanted[i] and count > 1 and each[0][i] is not each[1][i]:
                self.whole[i] = whole = torch.empty_like(self.tensors[i])
                for row, view in zip(self.gradients.filled, whole.unbind(1), strict=True):
                    row[i] = view

    def finished(self) -> tuple[Tensor | None, ...]:
        """In the order of the operator's tensors."""
        rows = self.gradients.finish()
        results = [self._together(i, [row[i] for row in rows]) for i in range(len(self.tensors))]
        return (*results[:Z], self.gradients.dz, *results[Z:])

    def _together(self, i: int, gradients: Sequence[Tensor | None]) -> Tensor | None:
        if i < PER_TOKEN and self.whole[i] is not None:
            return self.whole[i]
        found = [gradient for gradient in gradients if gradient is not None]
        if not found:
            return None
        shape = self.tensors[i].shape
        return found[0].reshape(shape) if len(found) == 1 else torch.stack(found, dim=AXES[i])
