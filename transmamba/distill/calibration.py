"""Stage 1a: bring student and teacher features into one space, with everything trainable on the student's side."""

from __future__ import annotations

from collections.abc import Sequence

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
        d_student, d_teacher: Widths.
        depth: Student layers.
        mode: ``"none"`` (equal widths only, nothing is done to S), ``"pad"`` (padding and parameter-free norm),
            ``"linear"`` (that and one bias-free matrix, identity at first), or ``"mlp"``.
        channels: Channel of the wider side for each channel of the narrower one, as subcloning chose them. Without
            it the narrower side is padded on both ends alike.

    Raises:
        ValueError: Unknown mode, ``"none"`` with unequal widths, or ``channels`` that are no distinct indices.
    """

    channels: Tensor

    def __init__(
        self,
        d_student: int,
        d_teacher: int,
        depth: int,
        mode: str = "mlp",
        channels: Sequence[int] | None = None,
    ):
        super().__init__()
        positive_int(d_student=d_student, d_teacher=d_teacher, depth=depth)
        if mode not in MODES:
            raise ValueError(f"calibration mode must be one of {', '.join(MODES)}, got {mode!r}")
        if mode == "none" and d_student != d_teacher:
            raise ValueError(
                f"calibration mode 'none' needs equal widths, got student {d_student} and teacher {d_teacher}; "
                "use 'pad', 'linear' or 'mlp'"
            )
        self.mode, self.d_student, self.d_teacher = mode, d_student, d_teacher
        narrow, self.d = sorted((d_student, d_teacher))
        if channels is None:
            first = (self.d - narrow) // 2
            channels = range(first, first + narrow)
        chosen = [int(c) for c in channels]
        if len(chosen) != narrow or len(set(chosen)) != narrow or not all(0 <= c < self.d for c in chosen):
            raise ValueError(f"channels must be {narrow} different indices below {self.d}, got {chosen}")
        self.register_buffer("channels", torch.tensor(chosen))
        self.maps = nn.ModuleList(self._map() for _ in range(depth))

    def _map(self) -> nn.Module:
        d = self.d
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
        return self.maps[layer](self._pad(feature, self.d_student))

    def teacher(self, feature: Tensor, grid: tuple[int, int], student_grid: tuple[int, int]) -> Tensor:
        """Map a teacher's ``feature`` ``(batch, h * w, d_teacher)`` on ``grid`` to ``(batch, L, d)``, detached."""
        feature = resample_tokens(feature.detach(), grid, student_grid)
        return self._pad(F.layer_norm(feature, feature.shape[-1:]), self.d_teacher)

    def _pad(self, feature: Tensor, width: int) -> Tensor:
        if feature.shape[-1] != width:
            raise ValueError(f"feature must have {width} channels, got shape {tuple(feature.shape)}")
        if width == self.d:
            return feature
        padded = feature.new_zeros(*feature.shape[:-1], self.d)
        return padded.index_copy(-1, self.channels, feature)


def resample_tokens(tokens: Tensor, grid: tuple[int, int], new_grid: tuple[int, int]) -> Tensor:
    """Resample ``(batch, h * w, channels)`` from one grid to another, bicubic; unchanged when the grids agree.

    Raises:
        ValueError: The number of tokens is not ``h * w``.
    """
    if tokens.dim() != 3 or tokens.shape[1] != grid[0] * grid[1]:
        raise ValueError(f"tokens must have shape (batch, {grid[0] * grid[1]}, channels), got {tuple(tokens.shape)}")
    if tuple(grid) == tuple(new_grid):
        return tokens
    # Antialiasing matters when the student's grid is the coarser one.
    image = tokens.transpose(1, 2).unflatten(2, grid)
    image = F.interpolate(image, size=new_grid, mode="bicubic", align_corners=False, antialias=True)
    return image.flatten(2).transpose(1, 2)
