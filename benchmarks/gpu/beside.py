"""Measure an op on a GPU: its backends and its peers, checked, in turns, beside the floor."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from benchmarks import variants
from benchmarks.gpu.chip import Chip
from benchmarks.gpu.floors import Work
from benchmarks.gpu.stopwatch import Call, interleave, sets_needed
from benchmarks.peers import Peer
from benchmarks.rows import Measurements, Row
from benchmarks.verify import ALLOWED, largest_error, step

BACKENDS = ("cuda", "triton")
FAILURES = (AssertionError, RuntimeError, TypeError, ValueError)  # of others' packages, and of a device
FLOOR = "floor"  # as a key of targets
MOST_STEPS = 2**24  # of states, that the check takes on the CPU in float64
Variant = Callable[..., Tensor]


class Bench(NamedTuple):
    """What every benchmark on a GPU is given.

    Attributes:
        device: Of the inputs.
        chip: What floors are computed from; None where its clock is not known.
        cache: Bytes of the device's last cache.
        stopwatch: See :func:`benchmarks.gpu.stopwatch.interleave`.
        backends: Ours to be measured, best first.
    """

    device: str
    chip: Chip | None
    cache: int
    stopwatch: Any
    benchmark: Any
    measurements: Measurements
    rounds: int
    backends: tuple[str, ...] = BACKENDS


class Case(NamedTuple):
    """An op at a shape.

    Attributes:
        op: Its name.
        name: Shape and layout.
        call: Takes the inputs and a backend.
        make_inputs: Takes a device; random ones each time, u of the shape ``(batch, d_inner, length)`` first.
        peers: See :mod:`benchmarks.peers`.
        d_state: Of the scan, or 1.
    """

    op: str
    name: str
    call: Variant
    make_inputs: Callable[[str], tuple[Tensor, ...]]
    peers: Sequence[Peer] = ()
    d_state: int = 1


def measure(bench: Bench, case: Case, figure: str, work: Work, targets: Mapping[str, float]) -> None:
    """Add the rows of a ``figure``: time, time over the floor, and every peer's over ours.

    Args:
        figure: ``"forward"`` or ``"backward"``.
        targets: By peer, or :data:`FLOOR`, for our CUDA kernels.
    """
    inputs, known = case.make_inputs(bench.device), {peer.name: peer for peer in case.peers}
    ours, theirs = found(bench, case, inputs)
    right = correct_ones(ours | theirs, case, inputs, figure == "backward", bench.measurements)
    if not any(name in right for name in ours):
        raise AssertionError(f"no backend is right: {bench.measurements.left_out}")
    size = sum(t.numel() * t.element_size() for t in inputs)
    sets = [inputs, *(case.make_inputs(bench.device) for _ in range(sets_needed(size, bench.cache) - 1))]

    def calls(name: str) -> list[Call]:
        given = [_contiguous(some) for some in sets] if name in known and known[name].contiguous else sets
        return [_prepared(right[name], some, figure == "backward") for some in given]

    seconds = interleave(bench.benchmark, {name: calls(name) for name in right}, bench.rounds, bench.stopwatch)
    add_rows(bench, case.op, case.name, figure, seconds, [name for name in ours if name in right], work, targets)
    wrong = [name for name in ours if name not in right]
    assert not wrong, f"{wrong} of {case.op} at {case.name}: {bench.measurements.left_out}"


def add_rows(bench, op, case, figure, seconds, ours, work: Work, targets: Mapping[str, float]) -> None:
    """The rows that :func:`measure` adds, from every variant's seconds."""

    def add(name, figure, peer, value, unit="x", target=None, at_most=False):
        bench.measurements.add(Row(op, case, figure, name, peer, value, unit, target, at_most, "gpu"))

    for name in ours:
        aims = targets if name == "cuda" else {}
        add(name, figure, "-", 1e6 * seconds[name], "us")
        if bench.chip is not None:
            floor = work.floor(bench.chip)
            add(name, f"{figure}, ours over it", str(floor), seconds[name] / floor.seconds, "x", aims.get(FLOOR), True)
        for peer in seconds:
            if peer not in ours:
                add(name, figure, peer, seconds[peer] / seconds[name], target=aims.get(peer))
    if len(ours) == 2:
        add(ours[1], f"{figure}, ours over it", ours[0], seconds[ours[1]] / seconds[ours[0]], "x", 2, True)


def peak_memory(bench: Bench, case: Case) -> None:
    """Add a row with the memory that a training step takes beside its inputs, and one per peer."""
    inputs = case.make_inputs(bench.device)
    ours, theirs = found(bench, case, inputs)
    upstream = torch.randn_like(inputs[0])

    def mebibytes(variant: Variant) -> float:
        step(variant, inputs, upstream)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step(variant, inputs, upstream)
        return (torch.cuda.max_memory_allocated() - before) / 2**20

    used: dict[str, float] = {}

    def all_of_them() -> None:
        used.update({name: mebibytes(variant) for name, variant in (ours | theirs).items()})

    bench.benchmark.pedantic(all_of_them, rounds=1)
    for name in ours:
        row = Row(case.op, case.name, "training, peak memory", name, "-", used[name], "MiB", device="gpu")
        bench.measurements.add(row)
        for peer in theirs:
            bench.measurements.add(dataclasses.replace(row, peer=peer, value=used[peer] / used[name], unit="x"))


def found(bench: Bench, case: Case, inputs: Sequence[Tensor]) -> tuple[dict[str, Variant], dict[str, Variant]]:
    """Our backends and the peers that can run; without one of ours the benchmark is skipped."""
    ours = variants.our_backends(case.call, inputs, bench.measurements, bench.backends)
    if not ours:
        pytest.skip(f"no backend on this GPU serves {case.op}")
    theirs = {}
    for name, variant in variants.peers(case.op, case.peers, 0, False, bench.measurements):
        try:
            step(variant, inputs, None)
        except FAILURES as error:
            bench.measurements.leave_out(f"{name} at {case.name}", _shortly(error))
        else:
            theirs[name] = variant
    return ours, theirs


def correct_ones(
    given: Mapping[str, Variant], case: Case, inputs: Sequence[Tensor], training: bool, measurements: Measurements
) -> dict[str, Variant]:
    """Those that are right at full size, as far as the last row of the batch and its last channels tell.

    Only these have an upstream gradient, so that the gradients of everything, sums over the batch and the channels
    included, are those of these alone. They are held against the op in float64 on the CPU, whose own tests hold it to
    the reference. What a variant leaves unwritten is not a number.
    """
    d_inner, length = inputs[0].shape[1:]
    channels = max(1, min(d_inner, MOST_STEPS // (length * case.d_state)))

    def part(t: Tensor) -> Tensor:
        if t.dim() == 3:
            t = t[-1:]
        axis = 1 if t.dim() == 3 else 0
        return t.narrow(axis, d_inner - channels, channels) if t.shape[axis] == d_inner else t

    upstream = None
    if training:
        upstream = torch.zeros_like(inputs[0])
        part(upstream).normal_()
    exact = [part(t).cpu().double() if t.is_floating_point() else t.cpu() for t in inputs]
    expected = step(case.call, exact, None if upstream is None else part(upstream).cpu().double())
    allowed, right = ALLOWED[inputs[0].dtype], {}
    for name, variant in given.items():
        what = f"{name} at {case.name} {'backward' if training else 'forward'}"
        try:
            with poisoned():
                results = step(variant, inputs, upstream)
        except FAILURES as error:
            measurements.leave_out(what, _shortly(error))
            continue
        error = largest_error([part(t).cpu() for t in results], expected)
        if error <= allowed and all(torch.isfinite(t).all() for t in results):
            right[name] = variant
        else:
            measurements.leave_out(what, f"WRONG: relative error {error:.1e}, allowed {allowed:.0e}")
    return right


@contextmanager
def poisoned() -> Iterator[None]:
    """Memory that torch allocates without writing it holds not-a-number."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def _shortly(error: Exception) -> str:
    return f"FAILS: {type(error).__name__}: {str(error)[:200]}"


def _contiguous(inputs: Sequence[Tensor]) -> list[Tensor]:
    return [t.contiguous() for t in inputs]


def _prepared(variant: Variant, inputs: Sequence[Tensor], training: bool) -> Call:
    """The pass that is timed, with everything before it done."""
    if not training:

        def forward() -> None:
            with torch.no_grad():
                variant(*inputs)

        return forward
    leaves = [t.detach().requires_grad_() if t.is_floating_point() else t for t in inputs]
    out = variant(*leaves)
    upstream = torch.randn_like(out)
    wanted = [t for t in leaves if t.requires_grad]
    return lambda: torch.autograd.grad(out, wanted, upstream, retain_graph=True)
