"""What every op does inside torch: under torch.compile and torch.func, and in a forked process."""

import multiprocessing

import pytest
import torch

from tests.tolerances import assert_close


def leaf(t):
    """A leaf to differentiate by, of the same memory layout; what has no gradient stays."""
    real = t is not None and t.is_floating_point()
    return t.clone(memory_format=torch.preserve_format).requires_grad_() if real else t


def check_compiled(op, cases, dynamic, same_bits=False, **options):
    """Compiled as one graph, ``op`` has the eager results and gradients for every one of the ``cases`` in turn.

    Args:
        cases: Inputs by name, of one call each.
        same_bits: Hold it to the eager bits. Not so where the compiled graph's upstream gradient has another layout and
            the sums another order.
        options: Of the op, that returns a sequence or, asked for the state too, a pair.
    """
    torch._dynamo.reset()
    compiled = torch.compile(op, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for inputs in cases:
        results = []
        for call in (op, compiled):
            leaves = {name: leaf(t) for name, t in inputs.items()}
            returned = call(**leaves, **options)
            out, *states = returned if isinstance(returned, tuple) else (returned,)
            (out.sin().sum() + sum(state.square().sum() for state in states)).backward()
            gradients = {name: t.grad for name, t in leaves.items() if t is not None and t.requires_grad}
            outputs = dict(zip(("out", "state"), (out, *states), strict=False))
            results.append({**{name: t.detach() for name, t in outputs.items()}, **gradients})
        for name, expected in results[0].items():
            if same_bits:
                assert torch.equal(results[1][name], expected), name
            else:
                assert_close(results[1][name], expected.double(), torch.float32, name)


def check_functional_gradient(op, inputs, names, **options):
    """``torch.func.grad`` by the inputs ``names`` gives what ``backward`` gives."""

    def loss(*tensors):
        return op(**{**inputs, **dict(zip(names, tensors, strict=True))}, **options).square().sum()

    given = [inputs[name] for name in names]
    leaves = [leaf(t) for t in given]
    loss(*leaves).backward()
    actual = torch.func.grad(loss, argnums=tuple(range(len(names))))(*given)
    torch.testing.assert_close(actual, tuple(t.grad for t in leaves))


def check_second_derivative_is_refused(op, inputs, **options):
    """Differentiating a gradient by the first input ends with an error, not with a wrong number."""
    name = next(iter(inputs))
    first = leaf(inputs[name])
    (gradient,) = torch.autograd.grad(op(**{**inputs, name: first}, **options).square().sum(), first, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def check_forked_child(call):
    """``call()`` returns a float here, and then on one thread of a forked process too."""
    assert isinstance(call(), float)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_in_a_child, args=(call, queue))
    child.start()
    assert isinstance(queue.get(timeout=60), float)
    child.join(timeout=60)
    assert child.exitcode == 0


def _in_a_child(call, queue):
    torch.set_num_threads(1)
    queue.put(call())
