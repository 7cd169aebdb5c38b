"""The least time an op can take on a GPU: its bytes over the bandwidth, its operations over the unit that does them.

What is counted is what no kernel can leave out. Parameters that all tokens share (A, D, biases) are left out: they are
a thousandth. Only the backward pass' instructions are an estimate, of the fewest that its equations need.
"""

from __future__ import annotations

from typing import NamedTuple

from benchmarks.gpu.chip import Chip

# Of the special function units, per token and channel: softplus takes an exponential and a logarithm, the gate's
# sigmoid an exponential and a reciprocal. Beside them one exponential per state.
SOFTPLUS, GATE = 2, 2
# Lane instructions of the backward pass: per state the decay again, the state again, its adjoint, and a product or sum
# each into du, ddelta, dA, dB and dC, with their share of the sums over channels; per token and channel loads, stores,
# softplus, gate and their slopes.
PER_STATE, PER_CHANNEL = 16, 15


class Floor(NamedTuple):
    """A bound.

    Attributes:
        seconds: The least an op can take.
        unit: What it waits for then.
    """

    seconds: float
    unit: str

    def __str__(self) -> str:
        return f"floor: {self.unit}, {1e6 * self.seconds:.3g} us"


class Work(NamedTuple):
    """What an op has to do at least.

    Attributes:
        bytes: Read or written, each once.
        special: Exponentials, logarithms and reciprocals.
        instructions: Of one lane.
    """

    bytes: float
    special: float = 0
    instructions: float = 0

    def floor(self, chip: Chip) -> Floor:
        """The longest of the three times."""
        return max(
            Floor(self.bytes / chip.bandwidth, "bytes"),
            Floor(self.special / chip.special, "exponentials"),
            Floor(self.instructions / chip.lanes, "instructions"),
        )


def scan_forward(shape: tuple[int, int, int, int], size: int = 2, directions: int = 1) -> Work:
    """A scan with softplus and gate, of ``(batch, d_inner, length, d_state)`` with elements of ``size`` bytes.

    ``directions`` share their inputs, the gate and the output; each has exponentials of its own, as if A were its own.
    """
    batch, d_inner, length, d_state = shape
    tokens = batch * length
    channels = tokens * d_inner
    return Work(
        size * (4 * channels + 2 * tokens * d_state),  # u, delta, z, out; B, C
        channels * (directions * d_state + SOFTPLUS + GATE),
    )


def scan_backward(shape: tuple[int, int, int, int], size: int = 2, directions: int = 1) -> Work:
    """The gradients of :func:`scan_forward`."""
    batch, d_inner, length, d_state = shape
    tokens = batch * length
    channels = tokens * d_inner
    return Work(
        size * (7 * channels + 4 * tokens * d_state),  # u, delta, z, dout, du, ddelta, dz; B, C, dB, dC
        channels * (directions * d_state + SOFTPLUS + GATE),
        channels * (directions * PER_STATE * d_state + PER_CHANNEL),
    )


def convolution(batch: int, d_inner: int, length: int, size: int = 2, *, backward: bool = False) -> Work:
    """The convolution with silu reads and writes a sequence; its backward pass reads two and writes one."""
    elements = batch * d_inner * length
    return Work(size * (3 if backward else 2) * elements, GATE * elements)


def state_update(batch: int, d_inner: int, d_state: int, size: int = 2) -> Work:
    """One token: the state read and written, A (float32) read, and x, dt, z, out, B and C."""
    channels = batch * d_inner
    return Work(
        size * (2 * channels * d_state + 4 * channels + 2 * batch * d_state) + 4 * d_inner * d_state,
        channels * (d_state + SOFTPLUS + GATE),
    )


def conv_state_update(batch: int, d_inner: int, width: int, size: int = 2) -> Work:
    """One token: the state read and written, the weights read, and x and out."""
    return Work(size * batch * d_inner * (2 * width + 2) + 4 * d_inner * width)
