"""One decoding step of the selective scan, the state updated in place."""

from __future__ import annotations

import torch
from torch import Tensor

from transmamba_kernels.backends import Backends
from transmamba_kernels.checks import are_bools, are_float_tensors, has_shape
from transmamba_kernels.decoding import check_integers, check_state_memory, refuse_gradients, state_rows
from transmamba_kernels.library import is_plain_eager, register
from transmamba_kernels.state_update import reference

_NAMES = ("state", "x", "dt", "A", "B", "C", "D", "z", "dt_bias")


def _refuses(names, tensors) -> str | None:
    return "takes no empty input" if tensors[0].numel() == 0 or tensors[1].numel() == 0 else None


_backends = Backends("state_update", _NAMES, _refuses)
_run = _backends.run("update", behind=10)

_update = register(
    "state_update(Tensor(a!) state, Tensor x, Tensor dt, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, "
    "Tensor? dt_bias, Tensor? state_batch_indices, str backend, bool dt_softplus) -> Tensor",
    kernel=_run,
    fake=_backends.run("allocate", behind=10),
)


def state_update(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    state_batch_indices: Tensor | None = None,
    *,
    backend: str | None = None,
) -> Tensor:
    r"""Advance the recurrence of :func:`selective_scan` by one token, for decoding.

    .. math:: h \leftarrow \exp(\Delta A)\, h + \Delta B x, \qquad \mathrm{out} = (C^\top h + D x)\, \mathrm{silu}(z)

    with :math:`\Delta = \mathrm{softplus}(\mathrm{dt} + \mathrm{bias})`. Eq. 2 of Gu and Dao, "Mamba"
    (https://arxiv.org/abs/2312.00752), with the arguments of mamba_ssm's ``selective_state_update``; with heads, the
    step of Dao and Gu, "Transformers are SSMs" (https://arxiv.org/abs/2405.21060). Computed in float32, or in float64
    when ``x`` is. Not differentiable: call it under ``torch.no_grad()``.

    Args:
        state: ``(batch, d_inner, d_state)``, or with heads ``(batch, heads, head_dim, d_state)``; updated in place.
            Any strides, as for every tensor here: expanded ``A``, ``dt``, ``D`` are read as they are.
        x: Input, ``(batch, d_inner)`` or ``(batch, heads, head_dim)``.
        dt: Step size before bias and softplus, shape of ``x``.
        A: State matrix, ``(d_inner, d_state)`` or ``(heads, head_dim, d_state)``; negative for a stable recurrence.
            One that is constant over the states, expanded as Mamba-2's, costs one exponential a channel.
        B, C: ``(batch, d_state)`` or ``(batch, groups, d_state)`` with ``heads``, or without heads ``d_inner``,
            divisible by ``groups``.
        D: Skip connection, ``(d_inner,)`` or ``(heads, head_dim)``.
        z: Gate, shape of ``x``.
        dt_bias: Shape of ``D``.
        dt_softplus: Apply softplus to ``dt + dt_bias``.
        state_batch_indices: Row of ``state`` that each batch entry updates, ``(batch,)`` of int32 or int64, each at
            most once; ``state`` may then have any number of rows, and the others are left as they are. On a GPU the
            kernels read them where they are, for CUDA graphs, and nothing checks them: an entry whose row does not
            exist, a negative one of padding for example, updates no state, and its output is not a number.
        backend: ``"cpp"``, ``"cuda"``, ``"triton"``, ``"reference"``, or None for the first that serves these tensors.

    Returns:
        ``out`` of ``x``'s shape and dtype, computed before the state is rounded to its own dtype.

    Raises:
        TypeError, ValueError: An argument has the wrong type, dtype, shape, device or values; the message names it.
        NotImplementedError: ``backend`` does not serve these tensors; the message says why.
        RuntimeError: Gradients are enabled and a tensor requires one.
    """
    tensors = (state, x, dt, A, B, C, D, z, dt_bias)
    _check(tensors, state_batch_indices)
    if type(dt_softplus) is not bool:
        are_bools(dt_softplus=dt_softplus)
    refuse_gradients("state_update", "selective_scan", tensors)
    backend = _backends.choose(backend, tensors)
    if backend == "reference":
        if not torch.compiler.is_compiling():
            state_rows("state_batch_indices", state_batch_indices, state.shape[0])
        return reference.state_update(*tensors, state_batch_indices, dt_softplus)
    update = _run if is_plain_eager(tensors) else _update
    return update(*tensors, state_batch_indices, backend, dt_softplus)


def _check(tensors, state_batch_indices) -> None:
    are_float_tensors(_NAMES, tensors, required=6)
    state, x, dt, A, B, C, D, z, dt_bias = tensors
    shape, x_shape = tuple(state.shape), tuple(x.shape)
    if len(shape) not in (3, 4):
        raise ValueError(
            f"state must have shape (batch, d_inner, d_state) or (batch, heads, head_dim, d_state), got {shape}"
        )
    channels, batch = shape[1:-1], x_shape[0] if x_shape else 0
    per_channel = "(d_inner,)" if len(shape) == 3 else "(heads, head_dim)"
    if x_shape[1:] != channels or len(x_shape) != len(channels) + 1:
        has_shape("x", x, (batch, *channels), f"(batch, {per_channel[1:]}")
    if dt.shape != x_shape:
        has_shape("dt", dt, x_shape, "of x")
    if A.shape != shape[1:]:
        has_shape("A", A, shape[1:], "of state, without the batch")
    if B.shape != (batch, shape[-1]):
        _check_groups(B, batch, channels[0], shape[-1])
    if C.shape != B.shape:
        has_shape("C", C, B.shape, "of B")
    if z is not None and z.shape != x_shape:
        has_shape("z", z, x_shape, "of x")
    if D is not None and D.shape != channels:
        has_shape("D", D, channels, per_channel)
    if dt_bias is not None and dt_bias.shape != channels:
        has_shape("dt_bias", dt_bias, channels, per_channel)
    check_state_memory("state", state)
    if state_batch_indices is not None:
        check_integers("state_batch_indices", state_batch_indices, batch, state.device)
    elif shape[0] != batch:
        raise ValueError(f"state has {shape[0]} rows for a batch of {batch}: state_batch_indices must say which ones")


def _check_groups(B: Tensor, batch: int, heads: int, d_state: int) -> None:
    shape = B.shape
    if len(shape) != 3 or shape[0] != batch or shape[2] != d_state:
        raise ValueError(
            f"B must have shape (batch, d_state) = ({batch}, {d_state}) or (batch, groups, d_state), got {tuple(shape)}"
        )
    if shape[1] < 1 or heads % shape[1]:
        raise ValueError(f"B has {shape[1]} groups, which must divide {heads}, the number of heads or channels")
