"""Selective scan (S6): the recurrence at the heart of Mamba."""

from __future__ import annotations

from torch import Tensor

from transmamba_kernels.autograd import Differentiable, Pass
from transmamba_kernels.backends import Backends
from transmamba_kernels.checks import are_bools
from transmamba_kernels.library import register
from transmamba_kernels.selective_scan import passes, reference
from transmamba_kernels.selective_scan.arguments import NAMES, check, refuses

_INPUTS = (
    "Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, Tensor? delta_bias, "
    "Tensor? initial_state, Tensor? cu_seqlens, str backend, bool delta_softplus, bool reverse"
)


_backends = Backends("selective_scan", NAMES, refuses)

_forward = register(
    f"selective_scan({_INPUTS}, bool with_state, bool for_backward) "
    "-> (Tensor out, Tensor last_state, Tensor checkpoints)",
    kernel=passes.forward,
    fake=passes.allocate_forward,
)
_backward = register(
    f"selective_scan_backward({_INPUTS}, Tensor checkpoints, Tensor dout, Tensor? dlast_state, bool[] needed) "
    "-> (Tensor du, Tensor ddelta, Tensor dA, Tensor dB, Tensor dC, Tensor dD, Tensor dz, Tensor ddelta_bias, "
    "Tensor dinitial_state)",
    kernel=passes.backward,
    fake=passes.allocate_backward,
)


_scan = Differentiable(Pass(passes.forward, _forward), Pass(passes.backward, _backward))


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    *,
    initial_state: Tensor | None = None,
    return_last_state: bool = False,
    reverse: bool = False,
    cu_seqlens: Tensor | None = None,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    r"""Run the selective state-space recurrence along the sequence.

    .. math:: h_t = \exp(\Delta_t A)\, h_{t-1} + \Delta_t B_t u_t, \qquad y_t = C_t^\top h_t + D u_t, \qquad
        \mathrm{out}_t = y_t\, \mathrm{silu}(z_t)

    with :math:`\Delta_t = \mathrm{softplus}(\delta_t + \mathrm{bias})`. Eq. 2 of Gu and Dao, "Mamba"
    (https://arxiv.org/abs/2312.00752); A is discretised exactly, B to first order, as in the authors' code. State and
    sums are float32, or float64 when ``u`` is. Differentiable once in every tensor, with results that are bit-identical
    from run to run at one thread count.

    Args:
        u: Input, ``(batch, d_inner, length)``. Any strides; channel-last memory, ``(batch, length, d_inner)``
            transposed, is the fast path and is not copied.
        delta: Step size before bias and softplus, same shape.
        A: State matrix, ``(d_inner, d_state)``; negative real parts for a stable scan. Complex is served by the
            reference.
        B, C: ``(batch, d_state, length)``, or ``(batch, groups, d_state, length)`` with ``d_inner`` divisible by
            ``groups``; a last dimension of 1 means constant over time and is never expanded. Or ``(d_inner, d_state)``,
            constant over batch and time.
        D: Skip connection, ``(d_inner,)``.
        z: Gate, shape of ``u``.
        delta_bias: ``(d_inner,)`` or, one per sample, ``(batch, d_inner)``.
        delta_softplus: Apply softplus to ``delta + delta_bias``.
        initial_state: State before the first step, ``(batch, d_inner, d_state)``, or one entry per packed sequence;
            zero if not given.
        return_last_state: Also return the state after the last step.
        reverse: Scan from the last token to the first: ``initial_state`` enters at the last token and the returned
            state is the one after the first.
        cu_seqlens: Offsets of sequences packed in one row, ``(sequences + 1,)`` of int32 or int64, on the CPU or where
            the input is: 0, where each next sequence starts, and the length. Checked when they are new or changed.
            ``batch`` is then 1, and every sequence is scanned on its own; equal neighbours are an empty
            one, whose state stays what it was.
        backend: ``"cpp"``, ``"cuda"``, ``"triton"``, ``"reference"``, or None for the first that serves these tensors.

    Returns:
        ``out`` of ``u``'s shape and dtype, or ``(out, last_state)`` with ``last_state``
        ``(batch, d_inner, d_state)``, or one entry per packed sequence, in float32 (float64 for float64).

    Raises:
        TypeError, ValueError: An argument has the wrong type, dtype, shape or device; the message names it.
        NotImplementedError: ``backend`` does not serve these tensors; the message says why.
    """
    tensors = (u, delta, A, B, C, D, z, delta_bias, initial_state)
    check(tensors, cu_seqlens=cu_seqlens)
    if not (type(delta_softplus) is type(reverse) is type(return_last_state) is bool):
        are_bools(delta_softplus=delta_softplus, reverse=reverse, return_last_state=return_last_state)
    backend = _backends.choose(backend, tensors)
    if backend == "reference":
        out, last_state = reference.selective_scan(*tensors, delta_softplus, reverse, cu_seqlens)
        return (out, last_state) if return_last_state else out

    out, last_state = _scan((*tensors, cu_seqlens), (backend, delta_softplus, reverse), return_last_state)
    return (out, last_state) if return_last_state else out
