"""Decoding steps beside their peers: calls that change a state, too short to be timed one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from benchmarks import variants
from benchmarks.interleave import interleave
from benchmarks.peers import Peer
from benchmarks.rows import Measurements, Row

CALLS = 200
Variant = Callable[..., Tensor]


def both_results(variant: Variant, state: int) -> Variant:
    """``variant`` on a copy of its input number ``state``, returning the output and what became of that."""

    def run(*given: Tensor) -> Tensor:
        copies = [t.clone() if i == state else t for i, t in enumerate(given)]
        out = variant(*copies)
        return torch.cat([out.flatten(), copies[state].flatten()])

    return run


def beside_peers(
    op: str,
    call: Variant,
    inputs: Sequence[Tensor],
    state: int,
    known: Sequence[Peer],
    benchmark,
    measurements: Measurements,
    rounds: int,
    *,
    targets: dict[str, float],
    at_most: float | None = None,
) -> None:
    """Add a row per peer, and one with the microseconds of a whole call of ours.

    Args:
        call: The op, which takes ``*inputs`` and a backend.
        state: Which of the inputs is updated in place.
        targets: Ratios to be reached, by peer.
        at_most: Target of the whole call, in microseconds.
    """

    def reference(*given: Tensor) -> Tensor:
        return call(*given, backend="reference")

    case = str((*inputs[state].shape,))
    found = variants.our_backends(call, inputs, measurements)
    ours = next(iter(found))
    found |= variants.peers(op, known, 1, False, measurements)
    checked = {name: both_results(variant, state) for name, variant in found.items()}
    right = variants.correct_ones(checked, both_results(reference, state), inputs, None, f"{case} {op}", measurements)

    def repeated(variant: Variant) -> Callable[[], None]:
        @torch.no_grad()
        def run() -> None:
            for _ in range(CALLS):
                variant(*inputs)

        return run

    seconds = interleave(benchmark, {name: repeated(found[name]) for name in right}, rounds)
    for peer in list(right)[1:]:
        value = seconds[peer] / seconds[ours]
        measurements.add(Row(op, case, "one token", ours, peer, value, target=targets.get(peer)))
    value = 1e6 * seconds[ours] / CALLS
    measurements.add(Row(op, case, "one token, whole call", ours, "-", value, "us", target=at_most, at_most=True))
