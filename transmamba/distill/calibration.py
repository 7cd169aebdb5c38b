"""Stage 1a: bring student and teacher features into one space, with everything trainable on the student's side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from transmamba.layers.checks import positive_int

MODES = ("none", "pad", "linear", "mlp")


class Calibration(nn.Module):
    r"""One map per student layer into the width :math:`d = \max(d_S, d_T)`, shared by the scan directions.

    .. math:: \tilde S = W_2\,\mathrm{GELU}(W_1\,\mathrm{LN}(P(S))), \qquad \tilde T = \mathrm{sg}(P(\mathrm{LN}_0(T)))

    TransMamba (https://arxiv.org/abs/2502.15130), feature calibration: zero padding :math:`P`, then a small MLP.
    :math:`\mathrm{LN}_0` has no parameters, and neither has anything else on the teacher's side: a trainable
    projection there could reach a cosine of 1 by collapse.

    The MLP starts as the identity, exactly: with :math:`W_1 = [I; -I]` and :math:`W_2 = [I, -I]` it is
    :math:`\mathrm{GELU}(x) - \mathrm{GELU}(-x) = x`.

    Args:
        d_student: Width of the student, or of each of its layers, which then are calibrated into a width of their own.
        d_teacher: Width of the teacher.
        depth: Student layers.
        mode: ``"none"`` (equal widths only, nothing is done to S), ``"pad"`` (padding and parameter-free norm),
            ``"linear"`` (that and one bias-free matrix, identity at first), or ``"mlp"``.
        channels: Channel of the wider side for each channel of the narrower one, as subcloning chose them, or a list of
            these, one per layer. Without it the narrower side is padded on both ends alike.

    Raises:
        ValueError: Unknown mode, ``"none"`` with unequal widths, or ``channels`` that are no distinct indices.
    """

    def __init__(
        self,
        d_student: int | Sequence[int],
        d_teacher: int,
        depth: int,
        mode: str = "mlp",
        channels: Sequence[int] | Sequence[Sequence[int]] | None = None,
    ):
        super().__init__()
        positive_int(d_teacher=d_teacher, depth=depth)
        widths = [d_student] * depth if isinstance(d_student, int) else list(d_student)
        for width in widths:
            positive_int(d_student=width)
        if len(widths) != depth:
            raise ValueError(f"d_student must have one width for each of {depth} layers, got {widths}")
        if mode not in MODES:
            raise ValueError(f"calibration mode must be one of {', '.join(MODES)}, got {mode!r}")
        if mode == "none" and any(width != d_teacher for width in widths):
            raise ValueError(
                f"calibration mode 'none' needs equal widths, got student {widths[0]} and teacher {d_teacher}; "
                "use 'pad', 'linear' or 'mlp'"
            )
        self.mode, self.widths, self.d_teacher = mode, widths, d_teacher
        given: list[Any] = [channels] * depth if channels is None or isinstance(channels[0], int) else list(channels)
        for width, chosen in dict(zip(widths, given, strict=True)).items():
            self.register_buffer(self._index(width), _indices(width, d_teacher, chosen))
        self.maps = nn.ModuleList(self._map(max(width, d_teacher)) for width in widths)

    def _index(self, width: int) -> str:
        """Name of the buffer with the channels of a student width."""
        return "channels" if len(set(self.widths)) == 1 else f"channels_{width}"

    def _map(self, d: int) -> nn.Module:
        if self.mode == "none":
            return nn.Identity()
        if self.mode == "pad":
            return nn.LayerNorm(d, elementwise_affine=False)
        if self.mode == "linear":
            linear = nn.Linear(d, d, bias=False)
            nn.init.eye_(linear.weight)
            return nn.Sequential(nn.LayerNorm(d, elementwise_affine=False), linear)
        up, down = nn.Linear(d, 2 * d), nn.Linear(2 * d, d)
        with torch.no_grad():
            up.weight.copy_(torch.cat([torch.eye(d), -torch.eye(d)]))
            down.weight.copy_(up.weight.t())
            up.bias.zero_()
            down.bias.zero_()
        return nn.Sequential(nn.LayerNorm(d), up, nn.GELU(), down)

    def forward(self, feature: Tensor, layer: int) -> Tensor:
        """Map the student's ``feature`` ``(batch, L, d_student)`` of ``layer`` to ``(batch, L, d)``."""
        return self.maps[layer](self._pad(feature, self.widths[layer], layer))

    def teacher(
        self, feature: Tensor, grid: tuple[int, ...] | None, student_grid: tuple[int, ...] | None, layer: int = 0
    ) -> Tensor:
        """Map a teacher's ``feature`` ``(batch, tokens, d_teacher)`` on ``grid`` to ``(batch, L, d)``, detached.

        ``layer`` is the student's, whose width and grid it is to have.
        """
        feature = resample_tokens(feature.detach(), grid, student_grid)
        return self._pad(F.layer_norm(feature, feature.shape[-1:]), self.d_teacher, layer)

    def _pad(self, feature: Tensor, width: int, layer: int) -> Tensor:
        if feature.shape[-1] != width:
            raise ValueError(f"feature must have {width} channels, got shape {tuple(feature.shape)}")
        student = self.widths[layer]
        if width == max(student, self.d_teacher):
            return feature
        padded = feature.new_zeros(*feature.shape[:-1], max(student, self.d_teacher))
        return padded.index_copy(-1, getattr(self, self._index(student)), feature)


def _indices(d_student: int, d_teacher: int, channels: Sequence[int] | None) -> Tensor:
    """Where the narrower side goes in the wider one."""
    narrow, wide = sorted((d_student, d_teacher))
    if channels is None:
        first = (wide - narrow) // 2
        channels = range(first, first + narrow)
    chosen = [int(c) for c in channels]
    if len(chosen) != narrow or len(set(chosen)) != narrow or not all(0 <= c < wide for c in chosen):
        raise ValueError(f"channels must be {narrow} different indices below {wide}, got {chosen}")
    return torch.tensor(chosen)


def resample_tokens(tokens: Tensor, grid: tuple[int, ...] | None, new_grid: tuple[int, ...] | None) -> Tensor:
    """Resample ``(batch, tokens, channels)`` from one grid to another, bicubic; unchanged when the grids agree.

    Grids are ``(h, w)``, or ``(frames, h, w)``: a video is resampled frame by frame, and as many frames as make one of
    the new grid are averaged. None is a sequence, whose tokens are those of the other side as they are.

    Raises:
        ValueError: The number of tokens is not that of the grid, or the grids are of different kinds.
    """
    if tokens.dim() != 3 or (grid is not None and tokens.shape[1] != math.prod(grid)):
        count = "tokens" if grid is None else math.prod(grid)
        raise ValueError(f"tokens must have shape (batch, {count}, channels), got {tuple(tokens.shape)}")
    if grid is None and new_grid is None:
        return tokens
    if grid is None or new_grid is None or len(grid) != len(new_grid) or (len(grid) == 3 and grid[0] % new_grid[0]):
        raise ValueError(f"tokens on a grid {grid} cannot be resampled to {new_grid}")
    if tuple(grid) == tuple(new_grid):
        return tokens
    if len(grid) == 3 and grid[0] != new_grid[0]:
        tokens = tokens.unflatten(1, (new_grid[0], -1, grid[1] * grid[2])).mean(2).flatten(1, 2)
    # Antialiasing matters when the student's grid is the coarser one.
    image = tokens.unflatten(1, (-1, grid[-2] * grid[-1])).flatten(0, 1).transpose(1, 2).unflatten(2, grid[-2:])
    image = F.interpolate(image, size=new_grid[-2:], mode="bicubic", align_corners=False, antialias=True)
    return image.flatten(2).transpose(1, 2).unflatten(0, (tokens.shape[0], -1)).flatten(1, 2)
