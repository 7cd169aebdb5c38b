"""Bidirectional selective scan: one scan from each end over the same tokens, one gate, no flipped copies."""

from __future__ import annotations

from torch import Tensor

from transmamba_kernels.autograd import Differentiable, Pass
from transmamba_kernels.backends import Backends
from transmamba_kernels.bidirectional_scan import passes, reference
from transmamba_kernels.checks import are_bools
from transmamba_kernels.library import register
from transmamba_kernels.selective_scan.arguments import NAMES, check, refuses

_OWN = tuple(f"{name}_reverse" for name in NAMES if name != "z")
_REVERSE_NAMES = tuple(name if name == "z" else f"{name}_reverse" for name in NAMES)
_TENSORS = ", ".join(
    [*(f"Tensor{'' if i < 5 else '?'} {name}" for i, name in enumerate(NAMES)), *(f"Tensor? {name}" for name in _OWN)]
)
_INPUTS = f"{_TENSORS}, str backend, bool delta_softplus, bool merge"
_GRADIENTS = ", ".join(f"Tensor d{name}" for name in (*NAMES, *_OWN))

_backends = Backends("bidirectional_scan", (*NAMES, *_OWN), refuses)

_forward = register(
    f"bidirectional_scan({_INPUTS}, bool with_state, bool for_backward) "
    "-> (Tensor out, Tensor last_state, Tensor checkpoints)",
    kernel=passes.forward,
    fake=passes.allocate_forward,
)
_backward = register(
    f"bidirectional_scan_backward({_INPUTS}, Tensor? checkpoints, Tensor dout, Tensor? dlast_state, "
    f"bool[] needed) -> ({_GRADIENTS})",
    kernel=passes.backward,
    fake=passes.allocate_backward,
)


_scan = Differentiable(Pass(passes.forward, _forward), Pass(passes.backward, _backward))


def bidirectional_scan(
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
    u_reverse: Tensor | None = None,
    delta_reverse: Tensor | None = None,
    A_reverse: Tensor | None = None,
    B_reverse: Tensor | None = None,
    C_reverse: Tensor | None = None,
    D_reverse: Tensor | None = None,
    delta_bias_reverse: Tensor | None = None,
    initial_state: Tensor | None = None,
    initial_state_reverse: Tensor | None = None,
    return_last_state: bool = False,
    merge: str = "sum",
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    r"""Scan a sequence from both ends and add the two up.

    .. math:: \mathrm{out} = (y^{\rightarrow} + y^{\leftarrow}) \odot \mathrm{silu}(z)

    where each :math:`y` is a :func:`transmamba_kernels.selective_scan` without its gate, the second one with
    ``reverse=True``. Algorithm 1 of Zhu et al., "Vision Mamba" (https://arxiv.org/abs/2401.09417), without its flips:
    both directions stand in the order of the tokens. Differentiable once in every tensor, bit-identical from run to run
    at one thread count.

    Args:
        u, delta, A, B, C, D, z, delta_bias, delta_softplus: As in :func:`transmamba_kernels.selective_scan`, for the
            forward direction.
        u_reverse, delta_reverse, A_reverse, B_reverse, C_reverse, D_reverse, delta_bias_reverse: Of the reverse
            direction, same shapes; None shares the forward direction's (a shared ``D`` is applied in both).
        initial_state: State before the first token, ``(batch, d_inner, d_state)``; zero if not given.
        initial_state_reverse: State behind the last token; None shares ``initial_state``.
        return_last_state: Also return the states that the scans end with.
        merge: ``"sum"``, or ``"none"``: each direction by itself, gated.
        backend: ``"cpp"``, ``"cuda"``, ``"triton"``, ``"reference"``, or None for the first that serves these tensors.

    Returns:
        ``out`` of ``u``'s dtype: ``(batch, d_inner, length)``, or with ``merge="none"``
        ``(batch, 2, d_inner, length)``, both in canonical order. With ``return_last_state`` ``(out, last_state)``,
        ``last_state`` ``(batch, 2, d_inner, d_state)`` in float32 (float64 for float64): after the last token, and
        after the first.

    Raises:
        TypeError, ValueError: An argument has the wrong type, dtype, shape or device; the message names it.
        NotImplementedError: ``backend`` does not serve these tensors; the message says why.
    """
    forward = (u, delta, A, B, C, D, z, delta_bias, initial_state)
    own = (u_reverse, delta_reverse, A_reverse, B_reverse, C_reverse, D_reverse, delta_bias_reverse)
    tensors = (*forward, *own, initial_state_reverse)
    check(forward)
    one, two = ((*side[:6], z, *side[6:]) for side in passes.split(tensors))
    # None may stand for a missing tensor: check() names what is wrong, and a shared one was checked already.
    check(two, _REVERSE_NAMES)
    if u_reverse is not None and u_reverse.device != u.device:
        raise ValueError(f"u_reverse must be on the device of u, {u.device}, got {u_reverse.device}")
    if u_reverse is not None and u_reverse.shape != u.shape:
        raise ValueError(f"u_reverse must have the shape of u, {tuple(u.shape)}, got {tuple(u_reverse.shape)}")
    if A_reverse is not None and A_reverse.shape != A.shape:
        raise ValueError(f"A_reverse must have the shape of A, {tuple(A.shape)}, got {tuple(A_reverse.shape)}")
    if merge not in ("sum", "none"):
        raise ValueError(f"merge must be 'sum' or 'none', got {merge!r}")
    if not (type(delta_softplus) is type(return_last_state) is bool):
        are_bools(delta_softplus=delta_softplus, return_last_state=return_last_state)
    add = merge == "sum"
    backend = _backends.choose(backend, tensors)
    if backend == "reference":
        out, last_state = reference.bidirectional_scan(one, two, delta_softplus, add)
        return (out, last_state) if return_last_state else out

    out, last_state = _scan(tensors, (backend, delta_softplus, add), return_last_state)
    return (out, last_state) if return_last_state else out
