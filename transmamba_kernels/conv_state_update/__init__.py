"""The causal convolution of new tokens, its state updated in place."""

from __future__ import annotations

import torch
from torch import Tensor

from transmamba_kernels.backends import Backends
from transmamba_kernels.checks import are_float_tensors, has_shape
from transmamba_kernels.conv_state_update import reference
from transmamba_kernels.decoding import check_integers, check_state_memory, positions, refuse_gradients, state_rows
from transmamba_kernels.library import is_plain_eager, register

_NAMES = ("x", "conv_state", "weight", "bias")


def _refuses(names, tensors) -> str | None:
    return "takes no empty input" if tensors[0].numel() == 0 else None


_backends = Backends("conv_state_update", _NAMES, _refuses)
_run = _backends.run("update", behind=6)

_update = register(
    "conv_state_update(Tensor x, Tensor(a!) conv_state, Tensor weight, Tensor? bias, Tensor? cache_seqlens, "
    "Tensor? conv_state_indices, str backend, bool silu) -> Tensor",
    kernel=_run,
    fake=_backends.run("allocate", behind=6),
)


def conv_state_update(
    x: Tensor,
    conv_state: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    cache_seqlens: Tensor | None = None,
    conv_state_indices: Tensor | None = None,
    *,
    backend: str | None = None,
) -> Tensor:
    r"""Convolve new tokens with the ones before them, which ``conv_state`` holds and then makes room for the new.

    .. math:: \mathrm{out}_t = \mathrm{silu}\Big(b + \sum_{k=0}^{W-1} w_k\, x_{t - W + 1 + k}\Big)

    or without the silu: what :func:`causal_conv1d` computes for the same tokens of one long sequence (Gu and Dao,
    "Mamba", section 3.4, https://arxiv.org/abs/2312.00752). The arguments are those of causal_conv1d's
    ``causal_conv1d_update``. Computed in float32, or in float64 when ``x`` is; a new token is rounded to the state's
    dtype only after it was seen. Not differentiable: call it under ``torch.no_grad()``.

    A state has ``entries >= width - 1``, and only the ``width - 1`` newest are read; it holds its tokens in one of two
    ways. Rolling, without ``cache_seqlens``: from the oldest to the newest, and afterwards it is the last ``entries``
    of old state and new tokens together. Circular, with ``cache_seqlens``: a sequence that has seen ``n`` tokens finds
    its newest in entry ``n - 1``, counted modulo ``entries``, and writes the new ones from entry ``n`` on, over the
    oldest; of more than ``entries`` new tokens the last ones stay. Before the first token the entries should be zero.

    Args:
        x: New tokens, ``(batch, d_inner)`` or, several, ``(batch, d_inner, length)``. Any strides, as for every tensor.
        conv_state: ``(batch, d_inner, entries)``; updated in place.
        weight: Filters, ``(d_inner, width)``, the last one for the present; any ``width`` from 1.
        bias: ``(d_inner,)``.
        activation: None or ``"silu"``.
        cache_seqlens: Tokens that each sequence has seen, ``(batch,)`` of int32 or int64; the state is then circular.
            Not negative; on a GPU as for ``conv_state_indices``.
        conv_state_indices: Row of ``conv_state`` that each batch entry updates, ``(batch,)`` of int32 or int64, each at
            most once; ``conv_state`` may then have any number of rows, and the others are left as they are. On a GPU
            the kernels read them where they are, for CUDA graphs, and nothing checks them: an entry whose row does not
            exist, a negative one of padding for example, updates no state, and its output is not a number.
        backend: ``"cpp"``, ``"cuda"``, ``"triton"``, ``"reference"``, or None for the first that serves these tensors.

    Returns:
        ``out`` of ``x``'s shape and dtype.

    Raises:
        TypeError, ValueError: An argument has the wrong type, dtype, shape, device or values; the message names it.
        NotImplementedError: ``backend`` does not serve these tensors; the message says why.
        RuntimeError: Gradients are enabled and a tensor requires one.
    """
    tensors = (x, conv_state, weight, bias)
    _check(tensors, cache_seqlens, conv_state_indices)
    if activation is not None and activation != "silu":
        raise ValueError(f"activation must be None or 'silu', got {activation!r}")
    refuse_gradients("conv_state_update", "causal_conv1d", tensors)
    backend = _backends.choose(backend, tensors)
    silu, given = activation is not None, (*tensors, cache_seqlens, conv_state_indices)
    if backend == "reference":
        if not torch.compiler.is_compiling():
            positions("cache_seqlens", cache_seqlens)
            state_rows("conv_state_indices", conv_state_indices, conv_state.shape[0])
        return reference.conv_state_update(*given, silu)
    return (_run if is_plain_eager(tensors) else _update)(*given, backend, silu)


def _check(tensors, cache_seqlens, conv_state_indices) -> None:
    are_float_tensors(_NAMES, tensors, required=3)
    x, conv_state, weight, bias = tensors
    shape, state_shape, weight_shape = x.shape, conv_state.shape, weight.shape
    if len(shape) not in (2, 3):
        raise ValueError(f"x must have shape (batch, d_inner) or (batch, d_inner, length), got {tuple(shape)}")
    batch, d_inner = shape[:2]
    if len(weight_shape) != 2 or weight_shape[0] != d_inner or weight_shape[1] < 1:
        raise ValueError(
            f"weight must have shape (d_inner, width) with d_inner = {d_inner} and a width of at least 1, "
            f"got {tuple(weight_shape)}"
        )
    least = max(weight_shape[1] - 1, 1)
    if len(state_shape) != 3 or state_shape[1] != d_inner or state_shape[2] < least:
        raise ValueError(
            f"conv_state must have shape (batch, d_inner, entries) with d_inner = {d_inner} and at least {least} "
            f"entries, got {tuple(state_shape)}"
        )
    if bias is not None and bias.shape != (d_inner,):
        has_shape("bias", bias, (d_inner,), "(d_inner,)")
    check_state_memory("conv_state", conv_state)
    check_integers("cache_seqlens", cache_seqlens, batch, x.device)
    check_integers("conv_state_indices", conv_state_indices, batch, x.device)
    if conv_state_indices is None and state_shape[0] != batch:
        raise ValueError(
            f"conv_state has {state_shape[0]} rows for a batch of {batch}: conv_state_indices must say which ones"
        )
