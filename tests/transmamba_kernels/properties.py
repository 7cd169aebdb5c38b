"""What the property tests draw: layouts, dtypes, machines; and how they run and compare."""

from contextlib import contextmanager

import torch
from hypothesis import strategies as st

from tests.tolerances import RELATIVE, assert_close
from transmamba_kernels import native

LAYOUTS = st.sampled_from(["channel_first", "channel_last", "chunk", "strided", "batch_last"])
DTYPES = st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64])
MACHINES = st.fixed_dictionaries({"isa": st.sampled_from(native.load().isas()), "threads": st.integers(1, 3)})


def some_of(*names):
    """Any of them, as a tuple."""
    return st.lists(st.sampled_from(names), unique=True).map(tuple)


@contextmanager
def running_on(machine):
    """Use this instruction set and number of threads, and the same random numbers in every example."""
    module, threads = native.load(), torch.get_num_threads()
    isa = module.isa()
    torch.manual_seed(0)
    try:
        module.use_isa(machine["isa"])
        torch.set_num_threads(machine["threads"])
        yield
    finally:
        module.use_isa(isa)
        torch.set_num_threads(threads)


def mix(first, second, names):
    """The tensors of ``first``, but those of ``names`` from ``second``."""
    return {name: second[name] if name in names else tensor for name, tensor in first.items()}


def spread_out(inputs, names):
    """The same numbers, but in the tensors of ``names`` every stride is above 1 and the last axis varies slowest."""

    def spread(t):
        wide = t.new_zeros([2 * n for n in t.movedim(-1, 0).shape])
        return wide[(slice(None, None, 2),) * t.dim()].movedim(0, -1).copy_(t)

    return {name: spread(t) if name in names and t is not None else t for name, t in inputs.items()}


def check(run, oracle, inputs, dtype, **how):
    """Hold ``run(inputs, **how)`` to ``oracle(inputs, dtype=torch.float64, **how)``, in every value and gradient.

    ``dtype`` is that of the sequence, which decides whether float64 is computed in.

    Where terms cancel, the few numbers of a small tensor can be all rounding. A tensor that the oracle misses as well
    in the dtypes given, or in float32, says nothing about a kernel.
    """
    actual, expected = run(inputs, **how), oracle(inputs, dtype=torch.float64, **how)
    doubles = dtype == torch.float64
    missed = disagreements(actual, expected, doubles)
    for computed in (None, torch.float32) if missed and not doubles else ():
        for name in disagreements(oracle(inputs, dtype=computed, **how), expected, doubles):
            missed.pop(name, None)
    for error in missed.values():
        raise error


def assert_same(actual, expected):
    """Compare tensors by name that were computed in float64."""
    for error in disagreements(actual, expected, True).values():
        raise error


def disagreements(actual, expected, doubles):
    """The errors by name; each value may be off by what its own dtype and that of the computation allow."""
    assert actual.keys() == expected.keys()
    errors = {}
    for name, value in actual.items():
        dtype = max(value.dtype, torch.float64 if doubles else torch.float32, key=RELATIVE.get)
        try:
            assert_close(value, expected[name], dtype, name)
        except AssertionError as error:
            errors[name] = error
    return errors
