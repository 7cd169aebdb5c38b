"""Inputs of the multi-scan, and what it is to agree with."""

import torch
import torch.nn.functional as F

from tests.transmamba_kernels.differentiate import differentiate
from tests.transmamba_kernels.sequences import sequence
from transmamba_kernels import multi_scan, scan_orders, selective_scan

BACKENDS = ("cpp", "reference")
OWN = ("u", "delta", "A", "B", "C", "D", "delta_bias", "initial_state")


def make_inputs(
    batch=2,
    d_inner=6,
    grid=(4, 5),
    d_state=3,
    *,
    orders=None,
    own=(),
    layout="channel_last",
    dtype=torch.float32,
    B_kind="time",
    C_kind="time",
    without=(),
):
    """Tensors by name; those in ``own`` have a part for each direction.

    ``B_kind`` and ``C_kind`` are ``"time"``, ``"constant"``, ``"one"`` (an axis K of size 1), or ``"groups"`` and
    ``"constant_groups"`` (two).
    """
    orders = scan_orders.cross_scan(*grid) if orders is None else orders
    K, length = orders.shape

    def per_token(name, channels, steps=length):
        if name not in own:
            return sequence(batch, channels, steps, layout, dtype)
        return sequence(batch, K * channels, steps, layout, dtype).unflatten(1, (K, channels))

    def coefficient(name, kind):
        steps = 1 if kind.startswith("constant") else length
        groups = 2 if kind.endswith("groups") else 1
        M = per_token(name, groups * d_state, steps)
        if M.dim() == 3 and (groups > 1 or kind == "one"):
            M = M.unsqueeze(1)
        return M.unflatten(-2, (groups, d_state)) if groups > 1 else M

    def parameter(name, *shape):
        return torch.randn(*((K,) if name in own else ()), *shape, dtype=dtype)

    inputs = {
        "u": per_token("u", d_inner),
        "delta": per_token("delta", d_inner),
        "A": -parameter("A", d_inner, d_state).abs() - 0.1,
        "B": coefficient("B", B_kind),
        "C": coefficient("C", C_kind),
        "orders": orders,
        "D": parameter("D", d_inner),
        "z": sequence(batch, d_inner, length, layout, dtype),
        "delta_bias": parameter("delta_bias", d_inner),
        "initial_state": torch.randn(batch, *((K,) if "initial_state" in own else ()), d_inner, d_state, dtype=dtype),
    }
    return {name: None if name in without else tensor for name, tensor in inputs.items()}


def run(inputs, backend, *, merge="sum", permute_params=True, **options):
    """Outputs and every gradient, by name; ``backend="oracle"`` is :func:`oracle` in float64."""
    how = {"merge": merge, "permute_params": permute_params, "delta_softplus": True}
    if backend == "oracle":
        return differentiate(oracle, inputs, dtype=torch.float64, **how, **options)
    return differentiate(multi_scan, inputs, return_last_state=True, backend=backend, **how, **options)


def oracle(
    u, delta, A, B, C, orders, D=None, z=None, delta_bias=None, initial_state=None, *,
    delta_softplus, merge, permute_params,
):  # fmt: skip
    """A selective scan per direction of tensors picked out with plain indexing."""
    K, length = orders.shape
    outputs, states = [], []
    for k in range(K):
        order = orders[k].long()
        same = order if permute_params else torch.arange(length)

        def own(t, shared_dims, axis, k=k):
            if t is None or t.dim() == shared_dims:
                return t
            return t.select(axis, k if t.shape[axis] > 1 else 0)

        def steps(t, order, k=k):
            t = own(t, 3, 1)
            return t.expand(*t.shape[:-1], length)[..., order]

        y, state = selective_scan(
            steps(u, order),
            steps(delta, same),
            own(A, 2, 0),
            steps(B, same),
            steps(C, same),
            own(D, 1, 0),
            None,
            own(delta_bias, 1, 0),
            delta_softplus,
            initial_state=own(initial_state, 3, 1),
            return_last_state=True,
            backend="reference",
        )
        canonical = torch.zeros_like(y)
        canonical[..., order] = y
        outputs.append(canonical if z is None else canonical * F.silu(z))
        states.append(state)
    out = sum(outputs) if merge == "sum" else torch.stack(outputs, dim=1)
    return out, torch.stack(states, dim=1)
