"""Causal convolution in Triton: allocate the outputs, launch the kernels that fill them."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from transmamba_kernels.causal_conv1d import triton_kernels as kernels
from transmamba_kernels.causal_conv1d.cpp import allocate_backward, allocate_forward
from transmamba_kernels.checks import device_offsets

__all__ = ["allocate_backward", "allocate_forward", "backward", "forward"]

_NUMBERS = 2048  # of a tile
_CHANNELS_SIDE_BY_SIDE = 32  # of them, in a row of a channel-last tile
_CHANNELS_APART = 4  # and where each channel lies in a line of its own
_CHANNELS_OF_A_STATE = 64


def forward(
    x, weight, bias, initial_state, cu_seqlens, silu, reverse, with_state, for_backward
) -> tuple[Tensor, Tensor | None]:
    """Run the convolution; shapes as in the public function."""
    outputs = allocate_forward(x, weight, bias, initial_state, cu_seqlens, silu, reverse, with_state, for_backward)
    out, final_state = outputs
    launch = _Launch(x, weight, cu_seqlens, reverse)
    with torch.cuda.device_of(x):
        launch.tiles(
            kernels.convolve,
            (x, weight, bias, initial_state, None, *launch.packed, out, None),
            (x, weight, bias, initial_state, None, out),
            SILU=silu,
        )
        if final_state is not None:
            launch.states(
                kernels.last_state, (x, initial_state, launch.offsets, final_state), (x, initial_state, final_state)
            )
    return outputs


def backward(
    x, weight, bias, initial_state, cu_seqlens, silu, reverse, dout, dfinal_state, needed
) -> tuple[Tensor | None, ...]:
    """Gradients of the inputs that can have one, in their order; None where not needed."""
    tensors = (x, weight, bias, initial_state)
    gradients = allocate_backward(*tensors, cu_seqlens, silu, reverse, dout, dfinal_state, needed)
    dx, dweight, dbias, dinitial_state = gradients
    launch = _Launch(x, weight, cu_seqlens, reverse)
    with torch.cuda.device_of(x):
        g = torch.empty_like(dout, dtype=torch.float32) if silu else None
        parts = None
        if dweight is not None or dbias is not None:
            parts = x.new_empty((launch.parts, weight.shape[1] + 1, weight.shape[0]), dtype=torch.float32)
        if g is not None or parts is not None:
            launch.tiles(
                kernels.convolve,
                (x, weight, bias, initial_state, dout, *launch.packed, g, parts),
                (x, weight, bias, initial_state, dout, g),
                SILU=silu,
            )
        g = dout if g is None else g
        if parts is not None:
            sums = parts.sum(0)  # in an order that depends on the shape alone
            if dweight is not None:
                dweight.copy_(sums[:-1].T)
            if dbias is not None:
                dbias.copy_(sums[-1])
        if dx is not None:
            launch.tiles(
                kernels.correlate, (g, weight, dfinal_state, *launch.packed, dx), (g, weight, dfinal_state, dx)
            )
        if dinitial_state is not None:
            launch.states(
                kernels.first_state,
                (g, weight, dfinal_state, launch.offsets, dinitial_state),
                (g, weight, dfinal_state, dinitial_state),
            )
    return gradients


class _Launch:
    """Grids over the tiles of ``x`` and over the states of its sequences."""

    def __init__(self, x: Tensor, weight: Tensor, cu_seqlens: Tensor | None, reverse: bool):
        batch, self._channels, self._length = x.shape
        self.offsets = sequence_of = None
        self._sequences = batch
        if cu_seqlens is not None:
            self.offsets = device_offsets(cu_seqlens, x.device, self._length)
            self._sequences = cu_seqlens.shape[0] - 1
            tokens = torch.arange(self._length, dtype=torch.int32, device=x.device)
            # Of an empty sequence and the one after it, which start together, the latter.
            sequence_of = torch.searchsorted(self.offsets, tokens, right=True, out_int32=True) - 1
        self.packed = self.offsets, sequence_of

        channels = _CHANNELS_SIDE_BY_SIDE if x.stride(1) <= x.stride(2) else _CHANNELS_APART
        self._tile = channels, min(_NUMBERS // channels, triton.next_power_of_2(self._length))
        self._tiles = triton.cdiv(self._channels, channels), triton.cdiv(self._length, self._tile[1])
        self.parts = batch * self._tiles[1]  # of the sums over batch and time
        self._constants = {"WIDTH": weight.shape[1], "STEP": -1 if reverse else 1}

    def tiles(self, kernel, tensors, strided, **constants) -> None:
        """Run ``kernel``, a tile of channels and time per program."""
        kernel[(self.parts * self._tiles[0],)](
            *tensors,
            *map(_stride, strided),
            *(self._channels, self._length, *self._tiles),
            **self._constants,
            **constants,
            CHANNELS=self._tile[0],
            TIME=self._tile[1],
        )

    def states(self, kernel, tensors, strided) -> None:
        """Run ``kernel``, a tile of the channels of one sequence's state per program."""
        tiles = triton.cdiv(self._channels, _CHANNELS_OF_A_STATE)
        kernel[(self._sequences * tiles,)](
            *tensors,
            *map(_stride, strided),
            *(self._channels, self._length, tiles),
            **self._constants,
            CHANNELS=_CHANNELS_OF_A_STATE,
        )


def _stride(tensor: Tensor | None) -> tuple[int, ...] | int:
    if tensor is None:
        return (0, 0, 0)
    return tensor.stride(0) if tensor.dim() == 1 else tensor.stride()
