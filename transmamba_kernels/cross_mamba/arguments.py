"""What a cross-Mamba scan takes beside the tensors of a scan, and the coefficients that both modalities read with."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from transmamba_kernels.checks import are_float_tensors, has_shape
from transmamba_kernels.library import is_plain_eager


def check_readers(C_text: Any, C: Any, gate: Any) -> None:
    """Raise unless at least one of the coefficients is given, and the gate only with both."""
    given = [(name, tensor) for name, tensor in (("C_text", C_text), ("C", C), ("gate", gate)) if tensor is not None]
    are_float_tensors([name for name, _ in given], [tensor for _, tensor in given], required=0)
    if C_text is None and C is None:
        raise ValueError("C_text or C must be given: the output reads the state with one of them or their sum")
    if gate is None:
        return
    if C_text is None or C is None:
        missing = "C_text" if C_text is None else "C"
        raise ValueError(f"gate weighs C_text against C, but {missing} is not given")
    d_state = C_text.shape[-2] if C_text.dim() > 1 else 0
    if gate.shape not in ((), (1,), (d_state,)):
        raise ValueError(f"gate must have shape (), (1,) or (d_state,) = ({d_state},), got {tuple(gate.shape)}")


def readers(C_text: Tensor | None, C: Tensor | None, gate: Tensor | None) -> Tensor:
    """``C``, ``C_text`` or ``C + tanh(gate) C_text``, in float32 at least.

    Raises:
        ValueError: The two do not fit each other.
    """
    if C_text is None or C is None:
        one = C if C_text is None else C_text
        assert one is not None
        return one
    real = torch.promote_types(torch.promote_types(C.dtype, C_text.dtype), torch.float32)
    own, other = C.to(real), C_text.to(real)
    if own.dim() != other.dim() and {own.dim(), other.dim()} == {3, 4}:
        own, other = (M.unsqueeze(1) if M.dim() == 3 else M for M in (own, other))
    try:
        torch.broadcast_shapes(own.shape, other.shape)
    except RuntimeError:
        raise ValueError(
            f"C and C_text must agree, but for groups or a length of 1; got {tuple(C.shape)} and {tuple(C_text.shape)}"
        ) from None
    return own + (other if gate is None else torch.tanh(gate.to(real)).reshape(-1, 1) * other)


def check_query(name: str, reader: Tensor, z: Tensor | None, u: Tensor, A: Tensor) -> None:
    """Raise unless ``reader`` and the gate ``z``, of any length, fit what was scanned."""
    batch, d_inner, d_state = u.shape[0], *A.shape
    shape = tuple(reader.shape)
    groups = shape[1] if len(shape) == 4 else 1
    if len(shape) not in (3, 4) or shape[0] != batch or shape[-2] != d_state or groups < 1 or d_inner % groups:
        raise ValueError(
            f"{name} must have shape (batch, d_state, length) = ({batch}, {d_state}, any) or "
            f"(batch, groups, d_state, length) with groups that divide d_inner = {d_inner}, got {shape}"
        )
    if z is not None:
        has_shape("z", z, (batch, d_inner, shape[-1]), f"(batch, d_inner, length of {name})")


def check_mask(mask: Any, batch: int, length: int) -> None:
    """Raise unless ``mask`` is a bool tensor ``(batch, length)``, on a CPU with at least one True in every row."""
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        what = str(mask.dtype).removeprefix("torch.") if isinstance(mask, Tensor) else type(mask).__name__
        raise TypeError(f"mask must be a tensor of bool, got {what}")
    expected = (batch, length)
    if mask.shape != expected:
        raise ValueError(f"mask must have shape (batch, length) = {expected}, got {tuple(mask.shape)}")
    # A GPU's values are not read: the host would wait for them, and a CUDA graph could not be captured.
    if mask.is_cpu and is_plain_eager((mask,)) and not (rows := mask.any(dim=1)).all():
        empty = int((~rows).nonzero()[0])
        raise ValueError(f"mask must leave at least one token in every row, but row {empty} is all False")


def leave_out(
    mask: Any, delta: Tensor, delta_bias: Tensor | None, delta_softplus: bool
) -> tuple[Tensor, Tensor | None]:
    """``(delta, delta_bias)`` with a step size of zero where ``mask`` is False: such tokens leave the state alone.

    Raises:
        TypeError, ValueError: As of :func:`check_mask`, or ``mask`` is on another device than ``delta``.
    """
    check_mask(mask, delta.shape[0], delta.shape[2])
    if mask.device != delta.device:
        raise ValueError(f"mask must be on the device of u, {delta.device}, got {mask.device}")
    kept = mask.unsqueeze(1)
    if delta_softplus:
        return delta.masked_fill(~kept, float("-inf")), delta_bias
    if delta_bias is not None:
        delta = delta + delta_bias.unsqueeze(-1)
    return delta.masked_fill(~kept, 0.0), None
