"""Cross-Mamba: the scan of one modality, read, started or steered by another."""

from __future__ import annotations

from typing import cast

import torch.nn.functional as F
from torch import Tensor

from transmamba_kernels.backends import Backends
from transmamba_kernels.bidirectional_scan import bidirectional_scan
from transmamba_kernels.checks import are_bools
from transmamba_kernels.cross_mamba import reference
from transmamba_kernels.cross_mamba.arguments import check_query, check_readers, leave_out, readers
from transmamba_kernels.selective_scan import selective_scan
from transmamba_kernels.selective_scan.arguments import NAMES, check, refuses

_TEXT_NAMES = tuple("C_text" if name == "C" else name for name in NAMES)
_backends = Backends("cross_mamba", NAMES, refuses)


def cross_mamba(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C_text: Tensor | None = None,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    *,
    C: Tensor | None = None,
    gate: Tensor | None = None,
    initial_state: Tensor | None = None,
    mask: Tensor | None = None,
    bidirectional: bool = True,
    of_last_state: bool = False,
    backend: str | None = None,
) -> Tensor:
    r"""Scan one modality's tokens and let another decide what is read from the state.

    .. math:: h_t = \exp(\Delta_t A)\, h_{t-1} + \Delta_t B_t u_t, \qquad
        y_t = \big(C_t + \tanh(g)\, C^{\mathrm{text}}_t\big)^\top h_t + D u_t

    from one end or from both, gated once. The four ways in which a text can take part in the scan of an image:

    - *query*: ``C_text`` from the text, pooled (a last dimension of 1, never expanded by the scan) or one per token.
      With ``C`` and a ``gate`` of zero the scan is the one without text, bit for bit.
    - *state*: ``initial_state`` is what a scan of the text ended with; both directions start from it.
    - *kv*: ``of_last_state=True``: ``u``, ``delta`` and ``B`` are the text's, and every column of ``C``, the image's,
      reads the state that the text's scan ended with.
    - *delta*: a ``delta_bias`` per sample, ``(batch, d_inner)``.

    The cross-Mamba module of "TransMamba" (https://arxiv.org/abs/2502.15130) in a general form: any role of the scan
    can be the other modality's. A :func:`transmamba_kernels.bidirectional_scan` with shared parameters, and as fast.

    Args:
        u: Input, ``(batch, d_inner, length)``, any strides.
        delta: Step size before bias and softplus, same shape.
        A: State matrix, ``(d_inner, d_state)``, the same in both directions.
        B: ``(batch, d_state, length)`` or ``(batch, groups, d_state, length)``, a last dimension of 1 for one that is
            constant over time.
        C_text: What the other modality reads with: shapes of ``B``.
        D: Skip connection, ``(d_inner,)``, applied in both directions. Not with ``of_last_state``.
        z: Gate, ``(batch, d_inner, length)``.
        delta_bias: ``(d_inner,)`` or, one per sample, ``(batch, d_inner)``.
        delta_softplus: Apply softplus to ``delta + delta_bias``.
        C: What the scanned tokens read with themselves, added to ``C_text``; shapes of ``B``.
        gate: Weight of ``C_text`` beside ``C`` before its tanh, ``()``, ``(1,)`` or ``(d_state,)``; without one they
            are added as they are.
        initial_state: ``(batch, d_inner, d_state)``, shared by both directions; zero if not given.
        mask: ``(batch, length)`` of bool, where ``u`` is: tokens of ``u`` where it is False, such as padding, leave
            the state alone. A row that is all False is an error on a CPU. On a GPU, for CUDA graphs, and under
            ``torch.compile`` nothing checks it: what is read is then the initial state, or zero without one.
        bidirectional: Scan from both ends and add up, or only from the first token.
        of_last_state: Read the last state instead of every token's: the length of the output is that of the reading
            coefficients and of ``z``. Of both directions the sum is read.
        backend: ``"cpp"``, ``"cuda"``, ``"triton"``, ``"reference"``, or None for the first that serves these tensors.

    Returns:
        ``out`` of ``u``'s dtype, ``(batch, d_inner, length)``, differentiable once in every tensor.

    Raises:
        TypeError, ValueError: An argument has the wrong type, dtype, shape or device, or a row of ``mask`` is all
            False where that is checked; the message names it.
        NotImplementedError: ``backend`` does not serve these tensors; the message says why.
    """
    if not (type(delta_softplus) is type(bidirectional) is type(of_last_state) is bool):
        are_bools(delta_softplus=delta_softplus, bidirectional=bidirectional, of_last_state=of_last_state)
    check_readers(C_text, C, gate)
    reader = readers(C_text, C, gate)
    names = NAMES if C_text is None else _TEXT_NAMES
    if of_last_state:
        if D is not None:
            raise ValueError("D must be None with of_last_state: the output stands on tokens that were not scanned")
        check((u, delta, A, B, B, None, None, delta_bias, initial_state), names)
        check_query(names[4], reader, z, u, A)
    else:
        check((u, delta, A, B, reader, D, z, delta_bias, initial_state), names)
    if mask is not None:
        delta, delta_bias = leave_out(mask, delta, delta_bias, delta_softplus)

    backend = _backends.choose(backend, (u, delta, A, B, reader, D, z, delta_bias, initial_state))
    if backend == "reference":
        return reference.cross_mamba(
            u, delta, A, B, reader, D, z, delta_bias, initial_state, delta_softplus, bidirectional, of_last_state
        )
    scan = bidirectional_scan if bidirectional else selective_scan
    if not of_last_state:
        scanned = scan(
            u, delta, A, B, reader, D, z, delta_bias, delta_softplus, initial_state=initial_state, backend=backend
        )
        return cast(Tensor, scanned)
    unread = u.new_zeros((u.shape[0], A.shape[1], 1))  # only the state is of interest
    _, state = scan(
        u, delta, A, B, unread, None, None, delta_bias, delta_softplus,
        initial_state=initial_state, return_last_state=True, backend=backend,
    )  # fmt: skip
    out = reference.read(state.sum(1) if bidirectional else state, reader)
    return (out if z is None else out * F.silu(z.to(out.dtype))).to(u.dtype)
