"""The variants of an op that a benchmark compares: our backends, then the peers, each checked before it is timed."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence

from torch import Tensor

from benchmarks.peers import Peer
from benchmarks.rows import Measurements
from benchmarks.verify import ALLOWED, largest_error, step
from transmamba_kernels.backends import availability

Variant = Callable[..., Tensor]


def our_backends(
    call: Variant, inputs: Sequence[Tensor], measurements: Measurements, among: Collection[str] | None = None
) -> dict[str, Variant]:
    """``call`` bound to the backends (``among`` these) that serve ``inputs``, best first; others' reasons are noted."""
    found: dict[str, Variant] = {}
    for name, problem in availability().items():
        if among is not None and name not in among:
            continue
        if problem is not None:
            measurements.leave_out(name, problem)
            continue
        bound = _bind(call, name)
        try:
            step(bound, inputs, None)
        except (ValueError, NotImplementedError) as error:
            measurements.leave_out(f"{name} of {call.__name__}", str(error))
        else:
            found[name] = bound
    return found


def peers(
    op: str, known: Sequence[Peer], length: int, training: bool, measurements: Measurements
) -> Iterator[tuple[str, Variant]]:
    """The peers that are installed and can run at this length; the others are noted with what to do."""
    for peer in known:
        try:
            call = peer.load(op)
        except ImportError as error:
            measurements.leave_out(peer.name, str(error))
            continue
        if training and peer.trains_up_to is not None and length > peer.trains_up_to:
            reason = f"its backward is quadratic in the length, so it is trained up to {peer.trains_up_to} steps only"
            measurements.leave_out(f"{peer.name} training", reason)
            continue
        yield peer.name, call


def correct_ones(
    variants: dict[str, Variant],
    reference: Variant,
    inputs: Sequence[Tensor],
    upstream: Tensor | None,
    what: str,
    measurements: Measurements,
) -> dict[str, Variant]:
    """Those that agree with the float64 ``reference``; of the others only the error is reported.

    Raises:
        AssertionError: Ours, the first, is not among them.
    """
    expected = step(reference, [t.double() for t in inputs], None if upstream is None else upstream.double())
    allowed, passed = ALLOWED[inputs[0].dtype], {}
    for name, call in variants.items():
        error = largest_error(step(call, inputs, upstream), expected)
        if error <= allowed:
            passed[name] = call
        else:
            size = f"{error:.1e}" if math.isfinite(error) else "not finite"
            measurements.leave_out(f"{name} at {what}", f"WRONG: relative error {size}, allowed {allowed:.0e}")
    first = next(iter(variants))
    assert first in passed, measurements.left_out[f"{first} at {what}"]
    return passed


def as_id(value: object) -> str:
    """A parameter's name that pytest's ``-k`` can match: ``8x384x197x16`` for a shape."""
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _bind(call: Variant, backend: str) -> Variant:
    def bound(*inputs: Tensor) -> Tensor:
        return call(*inputs, backend=backend)

    return bound
