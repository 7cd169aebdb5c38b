"""What the tensors of a multi-scan must be, and which of them belong to a direction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from transmamba_kernels.checks import are_float_tensors, has_shape
from transmamba_kernels.index_copies import IndexCopies
from transmamba_kernels.selective_scan.arguments import MAY_BE_COMPLEX, NAMES


def check(tensors: Sequence[Any], orders: Any) -> None:
    """Raise unless the tensors, in the order of :data:`NAMES`, and the shape of ``orders`` fit each other."""
    are_float_tensors(NAMES, tensors, required=5, may_be_complex=MAY_BE_COMPLEX)
    u, delta, A, B, C, D, z, delta_bias, initial_state = tensors
    if not isinstance(orders, Tensor):
        raise TypeError(f"orders must be a tensor, got {type(orders).__name__}")
    if orders.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"orders must be int64 or int32, got {str(orders.dtype).removeprefix('torch.')}")
    if not orders.is_cpu and orders.device != u.device:
        raise ValueError(f"orders must be on the CPU or the device of u, {u.device}, got {orders.device}")
    if orders.dim() != 2 or orders.shape[0] < 1:
        raise ValueError(f"orders must have shape (K, length) with K of at least 1, got {tuple(orders.shape)}")
    K = orders.shape[0]
    if u.dim() not in (3, 4) or (u.dim() == 4 and u.shape[1] != K):
        raise ValueError(
            f"u must have shape (batch, d_inner, length) or (batch, K, d_inner, length) with K = {K}, "
            f"got {tuple(u.shape)}"
        )
    batch, d_inner, length = u.shape[0], u.shape[-2], u.shape[-1]
    if orders.shape[1] != length:
        raise ValueError(f"orders must have shape (K, length) with u's length = {length}, got {tuple(orders.shape)}")
    sequence = (batch, d_inner, length)
    _is_shared_or_own("delta", delta, sequence, "d_inner, length", K)
    d_state = A.shape[-1] if A.dim() in (2, 3) else 0
    if d_state < 1 or A.shape not in ((d_inner, d_state), (K, d_inner, d_state)):
        raise ValueError(
            f"A must have shape (d_inner, d_state) or (K, d_inner, d_state) with d_inner = {d_inner} and K = {K}, "
            f"got {tuple(A.shape)}"
        )
    _check_coefficients("B", B, batch, K, d_inner, d_state, length)
    _check_coefficients("C", C, batch, K, d_inner, d_state, length)
    if B.dim() == 5 and C.dim() == 5 and B.shape[2] != C.shape[2] and 1 not in (B.shape[2], C.shape[2]):
        raise ValueError(f"B and C must have as many groups as each other, or one; got {B.shape[2]} and {C.shape[2]}")
    if D is not None:
        _is_shared_or_own("D", D, (d_inner,), "d_inner", K)
    if z is not None:
        has_shape("z", z, sequence, "(batch, d_inner, length)")
    if delta_bias is not None:
        _is_shared_or_own("delta_bias", delta_bias, (d_inner,), "d_inner", K)
    if initial_state is not None:
        _is_shared_or_own("initial_state", initial_state, (batch, d_inner, d_state), "d_inner, d_state", K)


def directions(tensors: Sequence[Any], K: int) -> list[tuple[Any, ...]]:
    """The tensors of each direction's own scan, without copies.

    Args:
        tensors: Those of the op in the order of :data:`NAMES`, checked.
        K: The number of directions.

    Returns:
        For every direction ``(u, delta, A, B, C, D, delta_bias, initial_state)`` as one selective scan takes them;
        ``z``, which gates the sum, is not among them. A tensor that is shared is the same object in all.
    """
    u, delta, A, B, C, D, _, delta_bias, initial_state = tensors
    each = (
        _along(u, 3, 1, K),
        _along(delta, 3, 1, K),
        _along(A, 2, 0, K),
        _along(B, 3, 1, K),
        _along(C, 3, 1, K),
        _along(D, 1, 0, K),
        _along(delta_bias, 1, 0, K),
        _along(initial_state, 3, 1, K),
    )
    return list(zip(*each, strict=True))


def _along(tensor: Tensor | None, shared: int, axis: int, K: int) -> Sequence[Tensor | None]:
    """One view per direction of what has more than the ``shared`` number of dimensions."""
    if tensor is None or tensor.dim() == shared:
        return [tensor] * K
    views = tensor.unbind(axis)
    return views if len(views) == K else views * K


def _is_shared_or_own(name: str, tensor: Tensor, shape: tuple[int, ...], meaning: str, K: int) -> None:
    """Raise unless ``tensor`` has ``shape``, or that with an axis K, behind the batch if there is one."""
    if tensor.shape == shape:
        return
    axis = 0 if len(shape) == 1 else 1
    own = (*shape[:axis], K, *shape[axis:])
    if tensor.shape != own:
        batch = "batch, " * axis
        raise ValueError(
            f"{name} must have shape ({batch}{meaning}) = {shape} or ({batch}K, {meaning}) = {own}, "
            f"got {tuple(tensor.shape)}"
        )


def _check_coefficients(name: str, M: Tensor, batch: int, K: int, d_inner: int, d_state: int, length: int) -> None:
    shape = M.shape
    if len(shape) in (3, 4, 5) and shape[0] == batch and shape[-2] == d_state and shape[-1] in (length, 1):
        if len(shape) == 3:
            return
        if shape[1] in (K, 1):
            if len(shape) == 5 and (shape[2] < 1 or d_inner % shape[2]):
                raise ValueError(f"{name} has {shape[2]} groups, which must divide d_inner = {d_inner}")
            return
    raise ValueError(
        f"{name} must have shape (batch, d_state, length) = ({batch}, {d_state}, {length}), "
        f"(batch, K, d_state, length) or (batch, K, groups, d_state, length) with K = {K} or 1, "
        f"any with a last dimension of 1; got {tuple(shape)}"
    )


def _check_rows(orders: Tensor) -> None:
    """Raise unless every row is a permutation of ``range(length)``; the message says which is not and why."""
    length = orders.shape[1]
    steps = torch.arange(length, device=orders.device)
    if bool((orders.sort(dim=-1).values == steps).all()):
        return
    for k, row in enumerate(orders.tolist()):
        visited: dict[int, int] = {}
        for t, token in enumerate(row):
            why = None
            if not 0 <= token < length:
                why = f"stands on {token} at step {t}"
            elif token in visited:
                why = f"visits token {token} twice, at steps {visited[token]} and {t}"
            if why is not None:
                raise ValueError(f"orders must hold a permutation of range({length}) in every row, but row {k} {why}")
            visited[token] = t


permutations = IndexCopies("orders", _check_rows)  # called with (orders, device)
