"""Multi-scan: selective scans over several orders of the same tokens, their sum, one gate."""

from __future__ import annotations

from torch import Tensor

from transmamba_kernels.autograd import Differentiable, Pass
from transmamba_kernels.backends import Backends
from transmamba_kernels.checks import are_bools
from transmamba_kernels.library import is_plain_eager, register
from transmamba_kernels.multi_scan import passes, reference
from transmamba_kernels.multi_scan.arguments import check, permutations
from transmamba_kernels.selective_scan.arguments import NAMES, refuses

_TENSORS = ", ".join(f"Tensor{'' if i < 5 else '?'} {name}" for i, name in enumerate(NAMES))
_INPUTS = f"{_TENSORS}, Tensor orders, str backend, bool delta_softplus, bool merge, bool permute_params"
_GRADIENTS = ", ".join(f"Tensor d{name}" for name in NAMES)

_backends = Backends("multi_scan", NAMES, refuses)

_forward = register(
    f"multi_scan({_INPUTS}, bool with_state, bool for_backward) -> (Tensor out, Tensor last_state, Tensor checkpoints)",
    kernel=passes.forward,
    fake=passes.allocate_forward,
)
_backward = register(
    f"multi_scan_backward({_INPUTS}, Tensor? checkpoints, Tensor dout, Tensor? dlast_state, bool[] needed) "
    f"-> ({_GRADIENTS})",
    kernel=passes.backward,
    fake=passes.allocate_backward,
)


_scan = Differentiable(Pass(passes.forward, _forward), Pass(passes.backward, _backward))


def multi_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    orders: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    *,
    initial_state: Tensor | None = None,
    return_last_state: bool = False,
    merge: str = "sum",
    permute_params: bool = True,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    r"""Scan the same tokens in several orders and add the results up, token by token.

    .. math:: \mathrm{out} = \mathrm{silu}(z) \odot \sum_k P_k^\top\, \mathrm{scan}_k(P_k u, P_k \Delta, P_k B, P_k C)

    where :math:`P_k` puts the tokens into the sequence of ``orders[k]`` and each :math:`\mathrm{scan}_k` is a
    :func:`transmamba_kernels.selective_scan` with its skip ``D`` and without a gate. The cross-scan of Liu et al.,
    "VMamba" (https://arxiv.org/abs/2401.10166), and with ``permute_params=False`` the mixer of Yang et al.,
    "PlainMamba" (https://arxiv.org/abs/2403.17695); :mod:`transmamba_kernels.scan_orders` has the orders of both.

    Everything goes in and comes out in the canonical order of the tokens. A tensor with an axis ``K`` has a part for
    each direction, one without it is shared by all.

    Args:
        u: Input, ``(batch, d_inner, length)`` or ``(batch, K, d_inner, length)``, any strides.
        delta: Step size before bias and softplus, either shape of ``u``.
        A: State matrix, ``(d_inner, d_state)`` or ``(K, d_inner, d_state)``. Complex is served by the reference.
        B, C: ``(batch, d_state, length)``, ``(batch, K, d_state, length)``, or with ``d_inner`` divisible by ``groups``
            ``(batch, K, groups, d_state, length)``; an axis ``K`` of size 1 is shared, a last dimension of 1 means
            constant over time.
        orders: ``(K, length)`` of int64 or int32, on the CPU or where ``u`` is: direction ``k`` stands on token
            ``orders[k, t]`` at step ``t``. Checked when they are new or changed, so keep them in a buffer.
        D: Skip connection, ``(d_inner,)`` or ``(K, d_inner)``; a shared one is applied in every direction.
        z: Gate, ``(batch, d_inner, length)``.
        delta_bias: ``(d_inner,)`` or ``(K, d_inner)``.
        delta_softplus: Apply softplus to ``delta + delta_bias``.
        initial_state: State before each direction's first step, ``(batch, d_inner, d_state)`` or
            ``(batch, K, d_inner, d_state)``; zero if not given.
        return_last_state: Also return the states that the scans end with.
        merge: ``"sum"``, or ``"none"``: each direction by itself, gated.
        permute_params: With False only ``u`` is walked in its order; step ``t`` takes ``delta``, ``B`` and ``C`` of
            token ``t``, as in PlainMamba's published code.
        backend: ``"cpp"``, ``"cuda"``, ``"triton"``, ``"reference"``, or None for the first that serves these tensors.

    Returns:
        ``out`` of ``u``'s dtype: ``(batch, d_inner, length)``, or with ``merge="none"``
        ``(batch, K, d_inner, length)``, both in canonical order. With ``return_last_state`` ``(out, last_state)``,
        ``last_state`` ``(batch, K, d_inner, d_state)`` in float32 (float64 for float64).

    Raises:
        TypeError, ValueError: An argument has the wrong type, dtype, shape or device, or a row of ``orders`` is no
            permutation; the message names it.
        NotImplementedError: ``backend`` does not serve these tensors; the message says why.
    """
    tensors = (u, delta, A, B, C, D, z, delta_bias, initial_state)
    check(tensors, orders)
    if merge not in ("sum", "none"):
        raise ValueError(f"merge must be 'sum' or 'none', got {merge!r}")
    if not (type(delta_softplus) is type(return_last_state) is type(permute_params) is bool):
        are_bools(delta_softplus=delta_softplus, return_last_state=return_last_state, permute_params=permute_params)
    add = merge == "sum"
    backend = _backends.choose(backend, tensors)
    if backend == "reference":
        if is_plain_eager((orders,)) and not orders.is_meta:  # where the values are known
            orders = permutations(orders, u.device)
        out, last_state = reference.multi_scan(tensors, orders, delta_softplus, add, permute_params)
        return (out, last_state) if return_last_state else out

    out, last_state = _scan((*tensors, orders), (backend, delta_softplus, add, permute_params), return_last_state)
    return (out, last_state) if return_last_state else out
