"""Scan orders: the ways through a grid of tokens that :func:`transmamba_kernels.multi_scan` walks.

An order is a row of a ``(K, length)`` int64 tensor, a permutation: at step ``t`` direction ``k`` stands on token
``orders[k, t]``. Tokens are numbered row by row, and frame by frame before that. Orders of one grid are put together
with ``torch.cat``, and a model keeps them in a buffer.
"""

from __future__ import annotations

import torch
from torch import Tensor


def raster(height: int, width: int) -> Tensor:
    """Row by row, each from the left: ``(1, height * width)``, the canonical order itself.

    Raises:
        ValueError: A size is not a positive int; so in all functions here.
    """
    return _one(_grid(height=height, width=width))


def column(height: int, width: int) -> Tensor:
    """Column by column, each from the top: ``(1, height * width)``."""
    return _one(_grid(height=height, width=width).T)


def snake(height: int, width: int) -> Tensor:
    """Row by row, every second one from the right, so that all steps go to a neighbour: ``(1, height * width)``.

    The continuous scan of Yang et al., "PlainMamba" (https://arxiv.org/abs/2403.17695).
    """
    return _one(_back_and_forth(_grid(height=height, width=width)))


def column_snake(height: int, width: int) -> Tensor:
    """Column by column, every second one from the bottom: ``(1, height * width)``; see :func:`snake`."""
    return _one(_back_and_forth(_grid(height=height, width=width).T))


def diagonal(height: int, width: int, snake: bool = False) -> Tensor:
    """Anti-diagonal by anti-diagonal from the top left, each from its upper right end: ``(1, height * width)``.

    Diagonals are among the directions of Zhao et al., "RS-Mamba" (https://arxiv.org/abs/2404.02668), where they go on
    at the opposite border; here they end at it.

    Args:
        snake: Every second one from its lower left end, as JPEG walks through its coefficients.
    """
    _grid(height=height, width=width)
    row, place = torch.arange(height).unsqueeze(1), torch.arange(width)
    line = row + place
    along = torch.where(line % 2 == 0, height - 1 - row, row) if snake else row
    return (line * height + along).reshape(1, -1).argsort(dim=-1)


def space_first(frames: int, height: int, width: int) -> Tensor:
    """Frame by frame, each in raster order: ``(1, frames * height * width)``, the canonical order of a video.

    The order that Li et al., "VideoMamba" (https://arxiv.org/abs/2403.06977) chose. One way, like
    :func:`time_first`; theirs is :func:`both_ways` of it.
    """
    return _one(_grid(frames=frames, height=height, width=width))


def time_first(frames: int, height: int, width: int) -> Tensor:
    """Place by place in raster order, each through all frames: ``(1, frames * height * width)``.

    VideoMamba's alternative to :func:`space_first`; both in one ``torch.cat`` make a spatiotemporal scan.
    """
    return _one(_grid(frames=frames, height=height, width=width).flatten(1).T)


def bidirectional(length: int) -> Tensor:
    """First token to last, and last to first: ``(2, length)``.

    Algorithm 1 of Zhu et al., "Vision Mamba" (https://arxiv.org/abs/2401.09417).
    """
    return both_ways(_one(_grid(length=length)))


def cross_scan(height: int, width: int) -> Tensor:
    """Rows, columns, and both backwards, in this sequence: ``(4, height * width)``.

    The cross-scan of Liu et al., "VMamba" (https://arxiv.org/abs/2401.10166); the sequence is that of the authors'
    code, so that published weights fit.
    """
    return both_ways(torch.cat((raster(height, width), column(height, width))))


def plain_mamba(height: int, width: int) -> Tensor:
    """Snake by rows, the same backwards, snake by columns, the same backwards: ``(4, height * width)``.

    The four scans of Yang et al., "PlainMamba" (https://arxiv.org/abs/2403.17695), in the sequence of the authors'
    code, which walks each backward one on its own and arrives at the same steps.
    """
    return torch.cat((both_ways(snake(height, width)), both_ways(column_snake(height, width))))


def reverse(orders: Tensor) -> Tensor:
    """Each of the ``(K, length)`` orders from its last token to its first."""
    return orders.flip(-1)


def both_ways(orders: Tensor) -> Tensor:
    """All ``(K, length)`` orders, then all of them backwards: ``(2 K, length)``."""
    return torch.cat((orders, reverse(orders)))


def inverse(orders: Tensor) -> Tensor:
    """At which step each token is visited: ``inverse(orders)[k, orders[k, t]] == t``, ``(K, length)``."""
    return orders.argsort(dim=-1)


def with_token(orders: Tensor, position: int) -> Tensor:
    """Orders of a sequence with one token more, at ``position``, which every order visits as that step.

    ``(K, length)`` becomes ``(K, length + 1)``. A class token in the middle, ``length // 2``, is Vim's, one in front
    VideoMamba's. Both reverse the sequence with its token, ``both_ways(with_token(...))``: the token in front comes
    last on the way back. ``with_token(both_ways(...), 0)`` has it first on all ways.

    Raises:
        ValueError: ``position`` is not in ``0 ... length``.
    """
    length = orders.shape[-1]
    if type(position) is not int or not 0 <= position <= length:
        raise ValueError(f"position must be an int from 0 to {length}, the length of the orders, got {position!r}")
    moved = torch.where(orders < position, orders, orders + 1)
    token = moved.new_full((moved.shape[0], 1), position)
    return torch.cat((moved[:, :position], token, moved[:, position:]), dim=-1)


def _grid(**sizes: int) -> Tensor:
    """Token numbers in the shape of the grid."""
    count = 1
    for name, size in sizes.items():
        if type(size) is not int or size < 1:
            raise ValueError(f"{name} must be a positive int, got {size!r}")
        count *= size
    return torch.arange(count).reshape(*sizes.values())


def _one(tokens: Tensor) -> Tensor:
    return tokens.reshape(1, -1)


def _back_and_forth(lines: Tensor) -> Tensor:
    lines = lines.clone()
    lines[1::2] = lines[1::2].flip(1)
    return lines
