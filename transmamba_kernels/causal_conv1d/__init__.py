"""Depthwise causal convolution, the short filter in front of the scan."""

from __future__ import annotations

from torch import Tensor

from transmamba_kernels.autograd import Differentiable, Pass
from transmamba_kernels.backends import Backends
from transmamba_kernels.causal_conv1d import reference
from transmamba_kernels.checks import are_bools, are_float_tensors, count_sequences, has_shape
from transmamba_kernels.library import register

_NAMES = ("x", "weight", "bias", "initial_state")
_INPUTS = (
    "Tensor x, Tensor weight, Tensor? bias, Tensor? initial_state, Tensor? cu_seqlens, "
    "str backend, bool silu, bool reverse"
)

_CUDA_WIDTH = 64  # whose tiles find room in shared memory


def _refuses(names, tensors) -> str | None:
    return "takes no empty input" if tensors[0].numel() == 0 else None


def _too_wide(names, tensors) -> str | None:
    width = tensors[1].shape[1]
    return f"takes filters of at most {_CUDA_WIDTH} weights, these have {width}" if width > _CUDA_WIDTH else None


_backends = Backends("causal_conv1d", _NAMES, _refuses, limits={"cuda": _too_wide})

_run_forward, _run_backward = (_backends.run(name, behind=5) for name in ("forward", "backward"))

_forward = register(
    f"causal_conv1d({_INPUTS}, bool with_state, bool for_backward) -> (Tensor out, Tensor final_state)",
    kernel=_run_forward,
    fake=_backends.run("allocate_forward", behind=5),
)
_backward = register(
    f"causal_conv1d_backward({_INPUTS}, Tensor dout, Tensor? dfinal_state, bool[] needed) "
    "-> (Tensor dx, Tensor dweight, Tensor dbias, Tensor dinitial_state)",
    kernel=_run_backward,
    fake=_backends.run("allocate_backward", behind=5),
)


_convolution = Differentiable(Pass(_run_forward, _forward), Pass(_run_backward, _backward))


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: str | None = None,
    initial_state: Tensor | None = None,
    return_final_state: bool = False,
    reverse: bool = False,
    cu_seqlens: Tensor | None = None,
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
        initial_state: The inputs before the first, ``(batch, d_inner, width - 1)``, or one entry per packed sequence;
            zero if not given.
        return_final_state: Also return the last ``width - 1`` inputs, the ``initial_state`` of what follows.
        reverse: The anti-causal convolution, which sees the present and the future: the same as flipping ``x`` and the
            result along the length. ``initial_state`` then stands after the last token, its last entry next to it, and
            the returned state ends with the first token.
        cu_seqlens: Offsets of sequences packed in one row, ``(sequences + 1,)`` of int32 or int64, on the CPU or where
            the input is: 0, where each next sequence starts, and the length. Checked when they are new or changed.
            ``batch`` is then 1, and every sequence is convolved on its own; equal neighbours are an
            empty one.
        backend: ``"cpp"``, ``"cuda"``, ``"triton"``, ``"reference"``, or None for the first that serves these tensors.

    Returns:
        ``out`` of ``x``'s shape and dtype, or ``(out, final_state)`` with ``final_state``
        ``(batch, d_inner, width - 1)``, or one entry per packed sequence, in ``x``'s dtype.

    Raises:
        TypeError, ValueError: An argument has the wrong type, dtype, shape or device; the message names it.
        NotImplementedError: ``backend`` does not serve these tensors; the message says why.
    """
    tensors = (x, weight, bias, initial_state)
    _check(*tensors, cu_seqlens)
    if activation is not None and activation != "silu":
        raise ValueError(f"activation must be None or 'silu', got {activation!r}")
    if not (type(return_final_state) is type(reverse) is bool):
        are_bools(return_final_state=return_final_state, reverse=reverse)
    backend = _backends.choose(backend, tensors)
    if backend == "reference":
        out, final_state = reference.causal_conv1d(*tensors, activation, reverse, cu_seqlens)
        return (out, final_state) if return_final_state else out

    options = (backend, activation is not None, reverse)
    out, final_state = _convolution((*tensors, cu_seqlens), options, return_final_state)
    return (out, final_state) if return_final_state else out


def _check(x, weight, bias, initial_state, cu_seqlens) -> None:
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
    entries, per = batch, "batch"
    if cu_seqlens is not None:
        entries, per = count_sequences(cu_seqlens, batch, x.device), "sequences"
    if initial_state is not None:
        expected = (entries, d_inner, weight.shape[1] - 1)
        has_shape("initial_state", initial_state, expected, f"({per}, d_inner, width - 1)")
