"""What the tensors of a selective scan must be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from transmamba_kernels.checks import are_float_tensors, count_sequences, has_shape

NAMES = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias", "initial_state")
MAY_BE_COMPLEX = frozenset(
    ("A", "B", "C", "initial_state", "A_reverse", "B_reverse", "C_reverse", "initial_state_reverse")
)


def check(tensors: Sequence[Any], names: Sequence[str] = NAMES, cu_seqlens: Any = None) -> None:
    """Raise unless the tensors of a scan, in the order of :data:`NAMES`, fit each other.

    Args:
        names: What they are called in messages.
        cu_seqlens: Offsets of packed sequences, or None; their values are not read.
    """
    are_float_tensors(names, tensors, required=5, may_be_complex=MAY_BE_COMPLEX)
    u, delta, A, B, C, D, z, delta_bias, initial_state = tensors
    if u.dim() != 3:
        raise ValueError(f"{names[0]} must have shape (batch, d_inner, length), got {tuple(u.shape)}")
    shape = u.shape
    batch, d_inner, length = shape
    has_shape(names[1], delta, shape, "of u (batch, d_inner, length)")
    if A.dim() != 2 or A.shape[0] != d_inner or A.shape[1] < 1:
        raise ValueError(
            f"{names[2]} must have shape (d_inner, d_state) with d_inner = {d_inner}, got {tuple(A.shape)}"
        )
    d_state = A.shape[1]
    _check_coefficients(names[3], B, batch, d_inner, d_state, length)
    _check_coefficients(names[4], C, batch, d_inner, d_state, length)
    if B.dim() == 4 and C.dim() == 4 and B.shape[1] != C.shape[1] and 1 not in (B.shape[1], C.shape[1]):
        raise ValueError(
            f"{names[3]} and {names[4]} must have as many groups as each other, or one; "
            f"got {B.shape[1]} and {C.shape[1]}"
        )
    if D is not None:
        has_shape(names[5], D, (d_inner,), "(d_inner,)")
    if z is not None:
        has_shape(names[6], z, shape, "of u (batch, d_inner, length)")
    if delta_bias is not None and delta_bias.shape != (d_inner,):
        has_shape(names[7], delta_bias, (batch, d_inner), f"(d_inner,) = ({d_inner},) or (batch, d_inner)")
    entries, per = batch, "batch"
    if cu_seqlens is not None:
        entries, per = count_sequences(cu_seqlens, batch, u.device), "sequences"
    if initial_state is not None and initial_state.shape != (entries, d_inner, d_state):
        has_shape(names[8], initial_state, (entries, d_inner, d_state), f"({per}, d_inner, d_state)")


def refuses(names: Sequence[str], tensors: Sequence[Tensor | None]) -> str | None:
    """Why no compiled scan serves these tensors, or None; ``u`` comes first."""
    u = tensors[0]
    assert u is not None
    for name, tensor in zip(names, tensors, strict=True):
        if name in MAY_BE_COMPLEX and tensor is not None and tensor.is_complex():
            return f"takes real tensors, and {name} is complex"
    if u.numel() == 0:
        return "takes no empty input"
    return None


def _check_coefficients(name: str, M: Tensor, batch: int, d_inner: int, d_state: int, length: int) -> None:
    shape = M.shape
    if len(shape) == 2 and shape == (d_inner, d_state):
        return
    if len(shape) in (3, 4) and shape[0] == batch and shape[-2] == d_state and shape[-1] in (length, 1):
        if len(shape) == 3:
            return
        if shape[1] < 1 or d_inner % shape[1]:
            raise ValueError(f"{name} has {shape[1]} groups, which must divide d_inner = {d_inner}")
        return
    raise ValueError(
        f"{name} must have shape (batch, d_state, length) = ({batch}, {d_state}, {length}), "
        f"(batch, groups, d_state, length), either with a last dimension of 1, or (d_inner, d_state) = "
        f"({d_inner}, {d_state}); got {tuple(shape)}"
    )
