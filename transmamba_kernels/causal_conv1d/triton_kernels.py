"""The causal convolution in Triton: what runs on the device.

Tiles are (time, channels); STEP is 1, or -1 in reverse. The age of a token is how many of its sequence come before it;
what the sequence's state holds has ages below 0. Convolved gradients g are d(out) silu'(p), or d(out).
"""

from __future__ import annotations

import triton
import triton.language as tl

from transmamba_kernels.triton_math import sigmoid


@triton.jit
def convolve(
    x, weight, bias, state, dout, offsets, sequence_of, out, partial,
    x_stride, weight_stride, bias_stride, state_stride, dout_stride, out_stride,
    channels, length, channel_tiles, time_tiles,
    WIDTH: tl.constexpr, SILU: tl.constexpr, STEP: tl.constexpr, TIME: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Forward, ``out``. With ``dout``: g in the place of ``out``, and this tile's part of dweight and dbias.

    ``partial``, (tiles along batch and time, WIDTH + 1, channels), and then ``out`` may be None; dbias stands last.
    """
    batch, t, c = _tile(channel_tiles, time_tiles, TIME, CHANNELS)
    of_channels = c < channels
    inside = (t < length) & of_channels
    sequence, age, _ = _place(batch, t, length, offsets, sequence_of, STEP)
    x += batch * x_stride[0] + c * x_stride[1]
    weight += c * weight_stride[0]
    if state is not None:
        state += sequence * state_stride[0] + c * state_stride[1]

    p = tl.zeros([TIME, CHANNELS], tl.float32)
    if SILU or dout is None:
        if bias is not None:
            p += tl.load(bias + c * bias_stride, mask=of_channels, other=0.0).to(tl.float32)
        for k in range(WIDTH):
            w = tl.load(weight + k * weight_stride[1], mask=of_channels, other=0.0).to(tl.float32)
            p += w * _seen(x, x_stride[2], state, state_stride[2], age, t, WIDTH - 1 - k, inside, WIDTH, STEP)
    s = sigmoid(p)
    if dout is None:
        y = p * s if SILU else p
    else:
        y = tl.load(dout + batch * dout_stride[0] + c * dout_stride[1] + t * dout_stride[2], mask=inside, other=0.0)
        y = y.to(tl.float32)
        if SILU:
            y *= s * (1 + p * (1 - s))
    if out is not None:
        out += batch * out_stride[0] + c * out_stride[1] + t * out_stride[2]
        tl.store(out, y.to(out.dtype.element_ty), mask=inside)
    if partial is not None:
        partial += (tl.program_id(0) // channel_tiles).to(tl.int64) * (WIDTH + 1) * channels + c
        for k in range(WIDTH):
            seen = _seen(x, x_stride[2], state, state_stride[2], age, t, WIDTH - 1 - k, inside, WIDTH, STEP)
            tl.store(partial + k * channels, tl.sum(y * seen, axis=0, keep_dims=True), mask=of_channels)
        tl.store(partial + WIDTH * channels, tl.sum(y, axis=0, keep_dims=True), mask=of_channels)


@triton.jit
def correlate(
    g, weight, dlast, offsets, sequence_of, dx,
    g_stride, weight_stride, dlast_stride, dx_stride,
    channels, length, channel_tiles, time_tiles,
    WIDTH: tl.constexpr, STEP: tl.constexpr, TIME: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """``dx`` out of g and the gradient of the last state."""
    batch, t, c = _tile(channel_tiles, time_tiles, TIME, CHANNELS)
    inside = (t < length) & (c < channels)
    sequence, age, count = _place(batch, t, length, offsets, sequence_of, STEP)
    g += batch * g_stride[0] + c * g_stride[1]
    if dlast is not None:
        dlast += sequence * dlast_stride[0] + c * dlast_stride[1]
    weight += c * weight_stride[0]
    y = _sees(g, g_stride[2], weight, weight_stride[1], dlast, dlast_stride[2], age, count, t, inside, WIDTH, STEP)
    dx += batch * dx_stride[0] + c * dx_stride[1] + t * dx_stride[2]
    tl.store(dx, y.to(dx.dtype.element_ty), mask=inside)


@triton.jit
def last_state(
    x, state, offsets, last,
    x_stride, state_stride, last_stride,
    channels, length, channel_tiles,
    WIDTH: tl.constexpr, STEP: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """The last WIDTH - 1 entries of what a sequence has seen."""
    sequence, batch, first, count, c = _sequence(channel_tiles, offsets, length, STEP, CHANNELS)
    inside = c < channels
    x += batch * x_stride[0] + c * x_stride[1]
    if state is not None:
        state += sequence * state_stride[0] + c * state_stride[1]
    last += sequence * last_stride[0] + c * last_stride[1]
    for j in range(WIDTH - 1):
        # As a token after the last one would see it.
        value = _seen(
            x, x_stride[2], state, state_stride[2], count, first + count * STEP, WIDTH - 1 - j, inside, WIDTH, STEP
        )
        tl.store(last + j * last_stride[2], value.to(last.dtype.element_ty), mask=inside)


@triton.jit
def first_state(
    g, weight, dlast, offsets, dstate,
    g_stride, weight_stride, dlast_stride, dstate_stride,
    channels, length, channel_tiles,
    WIDTH: tl.constexpr, STEP: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """``dstate``, the gradient of a sequence's initial state."""
    sequence, batch, first, count, c = _sequence(channel_tiles, offsets, length, STEP, CHANNELS)
    inside = c < channels
    g += batch * g_stride[0] + c * g_stride[1]
    weight += c * weight_stride[0]
    if dlast is not None:
        dlast += sequence * dlast_stride[0] + c * dlast_stride[1]
    dstate += sequence * dstate_stride[0] + c * dstate_stride[1]
    for j in range(WIDTH - 1):
        age = j - (WIDTH - 1)
        t = first + age * STEP
        y = _sees(g, g_stride[2], weight, weight_stride[1], dlast, dlast_stride[2], age, count, t, inside, WIDTH, STEP)
        tl.store(dstate + j * dstate_stride[2], y.to(dstate.dtype.element_ty), mask=inside)


@triton.jit
def _tile(channel_tiles, time_tiles, TIME: tl.constexpr, CHANNELS: tl.constexpr):
    """Batch entry, times and channels of a program; those of neighbouring channels run side by side."""
    program = tl.program_id(0)
    c = (program % channel_tiles) * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    t = (program // channel_tiles % time_tiles) * TIME + tl.arange(0, TIME)[:, None]
    return (program // channel_tiles // time_tiles).to(tl.int64), t.to(tl.int64), c.to(tl.int64)


@triton.jit
def _place(batch, t, length, offsets, sequence_of, STEP: tl.constexpr):
    """Sequence and age of the tokens ``t``, and how many tokens the sequence has."""
    sequence, start, end = batch, 0, length
    if offsets is not None:
        sequence = tl.load(sequence_of + t, mask=t < length, other=0).to(tl.int64)
        start, end = tl.load(offsets + sequence), tl.load(offsets + sequence + 1)
    age = t - start if STEP == 1 else end - 1 - t
    return sequence, age, end - start


@triton.jit
def _sequence(channel_tiles, offsets, length, STEP: tl.constexpr, CHANNELS: tl.constexpr):
    """Sequence of a program, the batch entry it lies in, its first token, how many it has, and channels."""
    program = tl.program_id(0)
    sequence = (program // channel_tiles).to(tl.int64)
    c = (program % channel_tiles) * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    batch, start, end = sequence, 0, length
    if offsets is not None:
        batch *= 0
        start, end = tl.load(offsets + sequence), tl.load(offsets + sequence + 1)
    first = start if STEP == 1 else end - 1
    return sequence, batch, first, end - start, c.to(tl.int64)


@triton.jit
def _seen(x, x_step, state, state_step, age, t, back, mask, WIDTH: tl.constexpr, STEP: tl.constexpr):
    """What came ``back`` tokens before the tokens ``t``: out of x, or out of the state."""
    past = age - back
    value = tl.load(x + (t - back * STEP) * x_step, mask=mask & (past >= 0), other=0.0).to(tl.float32)
    if state is not None:
        value += tl.load(state + (WIDTH - 1 + past) * state_step, mask=mask & (past < 0), other=0.0).to(tl.float32)
    return value


@triton.jit
def _sees(
    g, g_step, weight, weight_step, dlast, dlast_step, age, count, t, mask, WIDTH: tl.constexpr, STEP: tl.constexpr
):
    """The gradient of what is seen at ``t``: out of the tokens that see it, and out of the last state."""
    y = tl.zeros(mask.shape, tl.float32)
    for k in range(WIDTH):
        ahead = WIDTH - 1 - k
        token = mask & (age + ahead >= 0) & (age + ahead < count)
        w = tl.load(weight + k * weight_step, mask=mask, other=0.0).to(tl.float32)
        y += w * tl.load(g + (t + ahead * STEP) * g_step, mask=token, other=0.0).to(tl.float32)
    if dlast is not None:
        entry = age - count + WIDTH - 1
        y += tl.load(dlast + entry * dlast_step, mask=mask & (entry >= 0), other=0.0).to(tl.float32)
    return y
