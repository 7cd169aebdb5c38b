"""Sequences over the memory layouts that the ops accept."""

import torch


def offsets(lengths, dtype=torch.int32):
    """``cu_seqlens`` of sequences of these lengths."""
    return torch.tensor([0, *lengths]).cumsum(0).to(dtype)


def sequence(batch, channels, length, layout="channel_last", dtype=torch.float32):
    """``(batch, channels, length)`` of random numbers over the named memory layout."""
    if layout == "channel_last":
        return torch.randn(batch, length, channels, dtype=dtype).transpose(1, 2)
    if layout == "channel_first":
        return torch.randn(batch, channels, length, dtype=dtype)
    if layout == "chunk":  # half of a wider projection, as in_proj gives it
        return torch.randn(batch, length, 2 * channels, dtype=dtype).transpose(1, 2).chunk(2, dim=1)[1]
    if layout == "strided":  # every stride above 1
        return torch.randn(batch, 2 * channels, 3 * length, dtype=dtype)[:, ::2, ::3]
    if layout == "batch_last":
        return torch.randn(length, channels, batch, dtype=dtype).permute(2, 1, 0)
    raise ValueError(layout)


def on(device, t):
    """``t`` on ``device``, the same strides over a copy of the same memory."""
    if torch.device(device).type == "cpu":
        return t
    memory = torch.empty(0, dtype=t.dtype).set_(t.untyped_storage()).to(device)
    return memory.as_strided(t.shape, t.stride(), t.storage_offset())
