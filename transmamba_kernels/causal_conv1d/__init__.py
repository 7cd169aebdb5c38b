"""Depthwise causal convolution, the short filter in front of the scan."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from transmamba_kernels.backends import CPP, REFERENCE, Backend, Backends
from transmamba_kernels.causal_conv1d import cpp, reference
from transmamba_kernels.checks import are_bools, are_float_tensors, has_shape
from transmamba_kernels.library import is_plain_eager, register

_NAMES = ("x", "weight", "bias", "initial_state")
_Kernel = Callable[..., tuple[Any, ...]]  # what is not asked for comes back as None or empty
_INPUTS = "Tensor x, Tensor weight, Tensor? bias, Tensor? initial_state, bool silu, bool reverse"


def _cpp_refuses(names, tensors) -> str | None:
    if tensors[0].numel() == 0:
        return "takes no empty input"
    return CPP.refuses(names, tensors)


_backends = Backends("causal_conv1d", _NAMES, Backend("cpp", _cpp_refuses), REFERENCE)

_forward = register(
    f"causal_conv1d({_INPUTS}, bool with_state) -> (Tensor out, Tensor final_state)",
    kernel=cpp.forward,
    fake=cpp.allocate_forward,
)
_backward = register(
    f"causal_conv1d_backward({_INPUTS}, Tensor dout, Tensor? dfinal_state, bool[] needed) "
    "-> (Tensor dx, Tensor dweight, Tensor dbias, Tensor dinitial_state)",
    kernel=cpp.backward,
    fake=cpp.allocate_backward,
)


def _run(direct, silu, reverse, with_state, *tensors):
    run: _Kernel = cpp.forward if direct else _forward
    return run(*tensors, silu, reverse, with_state)


def _save(ctx, inputs, output):
    direct, silu, reverse, _, *tensors = inputs
    ctx.save_for_backward(*tensors)
    ctx.options = direct, silu, reverse
    ctx.set_materialize_grads(False)


class _CausalConv1d(torch.autograd.Function):
    """Gradients of the compiled convolution. ``direct`` calls it past the dispatcher."""

    @staticmethod
    def forward(ctx, *inputs):
        outputs = _run(*inputs)
        _save(ctx, inputs, outputs)
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx, dout, dfinal_state):
        tensors = ctx.saved_tensors
        direct, silu, reverse = ctx.options
        if dout is None:
            if dfinal_state is None:
                return (None,) * (4 + len(tensors))
            dout = torch.zeros_like(tensors[0])
        run: _Kernel = cpp.backward if direct else _backward
        needed = list(ctx.needs_input_grad[4:])
        gradients = run(*tensors, silu, reverse, dout, dfinal_state, needed)
        return None, None, None, None, *(g if n else None for g, n in zip(gradients, needed, strict=True))


class _Transformable(_CausalConv1d):
    """The same in the form that torch.func needs, which costs more per call."""

    forward = staticmethod(_run)
    setup_context = staticmethod(_save)


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: str | None = None,
    initial_state: Tensor | None = None,
    return_final_state: bool = False,
    reverse: bool = False,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    r"""Convolve every channel with its own short filter that sees the present and the past.

    .. math:: \mathrm{out}_t = \mathrm{silu}\Big(b + \sum_{k=0}^{W-1} w_k\, x_{t - W + 1 + k}\Big)

    or without the silu; :math:`x_{-W+1}, \ldots, x_{-1}` come from ``initial_state``. The convolution of Gu and Dao,
    "Mamba", section 3.4 (https://arxiv.org/abs/2312.00752). Sums are float32, or float64 when ``x`` is. Differentiable
    once in every tensor, with results that are bit-identical from run to run at one thread count.

    Args:
        x: Input, ``(batch, d_inner, length)``. Any strides; channel-last memory, ``(batch, length, d_inner)``
            transposed, is the fast path and is not copied.
        weight: Filters, ``(d_inner, width)``, the last one for the present; any ``width`` from 1.
        bias: ``(d_inner,)``.
        activation: None or ``"silu"``.
        initial_state: The inputs before the first, ``(batch, d_inner, width - 1)``; zero if not given.
        return_final_state: Also return the last ``width - 1`` inputs, the ``initial_state`` of what follows.
        reverse: The anti-causal convolution, which sees the present and the future: the same as flipping ``x`` and the
            result along the length. ``initial_state`` then stands after the last token, its last entry next to it, and
            the returned state ends with the first token.
        backend: ``"cpp"``, ``"reference"``, or None for the first that serves these tensors.

    Returns:
        ``out`` of ``x``'s shape and dtype, or ``(out, final_state)`` with ``final_state``
        ``(batch, d_inner, width - 1)`` in ``x``'s dtype.

    Raises:
        TypeError, ValueError: An argument has the wrong type, dtype, shape or device; the message names it.
        NotImplementedError: ``backend`` does not serve these tensors; the message says why.
    """
    tensors = (x, weight, bias, initial_state)
    _check(*tensors)
    if activation is not None and activation != "silu":
        raise ValueError(f"activation must be None or 'silu', got {activation!r}")
    if not (type(return_final_state) is type(reverse) is bool):
        are_bools(return_final_state=return_final_state, reverse=reverse)
    if _backends.choose(backend, tensors) == "reference":
        out, final_state = reference.causal_conv1d(*tensors, activation, reverse)
        return (out, final_state) if return_final_state else out

    silu = activation is not None
    direct = is_plain_eager(tensors)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
        function = _CausalConv1d if direct else _Transformable
        out, final_state = function.apply(direct, silu, reverse, return_final_state, *tensors)
    else:
        out, final_state = _run(direct, silu, reverse, return_final_state, *tensors)
    return (out, final_state) if return_final_state else out


def _check(x, weight, bias, initial_state) -> None:
    are_float_tensors(_NAMES, (x, weight, bias, initial_state), required=2)
    if x.dim() != 3:
        raise ValueError(f"x must have shape (batch, d_inner, length), got {tuple(x.shape)}")
    batch, d_inner, _ = x.shape
    if weight.dim() != 2 or weight.shape[0] != d_inner or weight.shape[1] < 1:
        raise ValueError(
            f"weight must have shape (d_inner, width) with d_inner = {d_inner} and a width of at least 1, "
            f"got {tuple(weight.shape)}"
        )
    if bias is not None:
        has_shape("bias", bias, (d_inner,), "(d_inner,)")
    if initial_state is not None:
        has_shape("initial_state", initial_state, (batch, d_inner, weight.shape[1] - 1), "(batch, d_inner, width - 1)")
