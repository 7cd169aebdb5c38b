"""Gradients around an operator: one autograd function for all ops, past the dispatcher where nothing traces."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from transmamba_kernels.library import is_plain_eager


class Pass(NamedTuple):
    """One pass of an op.

    Attributes:
        kernel: Called directly; what is not asked for comes back as None.
        operator: The registered one, which traces; what is not asked for comes back empty.
    """

    kernel: Callable[..., tuple[Any, ...]]
    operator: Callable[..., tuple[Any, ...]]

    def __call__(self, direct: bool, *arguments: Any) -> tuple[Any, ...]:
        return (self.kernel if direct else self.operator)(*arguments)


class Differentiable:
    """An op with its gradients, differentiable once.

    Args:
        forward: Called with ``(*tensors, *options, with_state, for_backward)``; returns ``(out, state, *kept)``, where
            ``kept`` is what the backward pass needs beside the tensors.
        backward: Called with ``(*tensors, *options, *kept, dout, dstate, needed)``; returns one gradient per tensor,
            but none for those at the end that cannot have one, such as offsets.
    """

    def __init__(self, forward: Pass, backward: Pass):
        self._forward = forward
        self._plain, self._transformable = _functions(forward, backward)

    def __call__(self, tensors: tuple[Tensor | None, ...], options: tuple[str | bool, ...], with_state: bool) -> Any:
        """Return ``(out, state)``; ``state`` is None or empty unless it is asked for."""
        direct = is_plain_eager(tensors)
        if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
            # torch.func needs the second form, which costs more per call.
            function = self._plain if direct else self._transformable
            return function.apply(direct, len(tensors), *tensors, *options, with_state)[:2]
        return self._forward(direct, *tensors, *options, with_state, False)[:2]


def _functions(forward: Pass, backward: Pass) -> tuple[Any, Any]:
    def run(direct, _count, *arguments):
        return forward(direct, *arguments, True)

    def save(ctx, inputs, output):
        direct, count, *arguments = inputs
        kept = output[2:]
        ctx.mark_non_differentiable(*(k for k in kept if k is not None))
        ctx.save_for_backward(*arguments[:count], *kept)
        ctx.direct, ctx.count, ctx.options = direct, count, arguments[count:-1]
        ctx.out_shape = output[0].shape
        ctx.set_materialize_grads(False)

    class Plain(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *inputs):
            output = run(*inputs)
            save(ctx, inputs, output)
            return output

        @staticmethod
        @once_differentiable
        def backward(ctx, dout, dstate, *_):
            count, options, saved = ctx.count, ctx.options, ctx.saved_tensors
            tensors, kept = saved[:count], saved[count:]
            needed = list(ctx.needs_input_grad[2 : 2 + count])
            if dstate is not None and dstate.dim() == 1:  # of the empty tensor in place of a state not asked for
                dstate = None
            rest = (None,) * (len(options) + 1)
            if dout is None:
                if dstate is None:
                    return None, None, *((None,) * count), *rest
                dout = tensors[0].new_zeros(ctx.out_shape)
            gradients = backward(ctx.direct, *tensors, *options, *kept, dout, dstate, needed)
            rest += (None,) * (count - len(gradients))
            return None, None, *(g if n else None for g, n in zip(gradients, needed, strict=False)), *rest

    class Transformable(Plain):
        forward = staticmethod(run)
        setup_context = staticmethod(save)

    return Plain, Transformable
