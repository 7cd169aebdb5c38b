"""One tensor of a student after the other: which part of the teacher it is, which of its indices, in which scale."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from transmamba.distill.attention import read_attention
from transmamba.distill.attention_start import attention_start
from transmamba.distill.axis import Axis
from transmamba.distill.calibration import resample_tokens
from transmamba.distill.importance import Importance, measure_importance
from transmamba.distill.layer_map import layer_map
from transmamba.distill.mixer_scale import mixer_scales
from transmamba.distill.report import SubcloneRow
from transmamba.models import Role
from transmamba.teachers import Teacher

if TYPE_CHECKING:
    from transmamba.distill.subcloning import SubcloneConfig


class Cloner:
    """Fixes the index sets once, then answers for one tensor at a time."""

    def __init__(
        self,
        student: nn.Module,
        teacher: Teacher,
        config: SubcloneConfig,
        images: Iterable[Tensor] | None,
        pretrained: Teacher | None,
    ):
        widths, hidden = student.widths, student.hidden_widths  # type: ignore[union-attr]
        self.widths: list[int] = list(widths)  # type: ignore[arg-type]
        depth = len(self.widths)
        self.student, self.teacher, self.weights = student, teacher, config.weights
        self.layers = layer_map(config.layer_map, depth, teacher.depth)
        self.early = math.ceil(2 * depth / 3) if config.early is None else min(config.early, depth)
        scores: Importance | None = None
        if min(self.widths) < teacher.d_model or any(0 < n < teacher.d_hidden for n in hidden):  # type: ignore[union-attr]
            scores = measure_importance(teacher, config.importance, images, pretrained)
        channels = None if scores is None else scores.channels
        units = [None] * teacher.depth if scores is None else scores.hidden
        self.residuals = {d: Axis.choose("channels", channels, teacher.d_model, d) for d in sorted(set(self.widths))}
        self.hidden = {
            i: Axis.choose("units", units[self.layers[i]], teacher.d_hidden, n)
            for i, n in enumerate(hidden[: self.early])  # type: ignore[index]
            if n
        }

    @property
    def channels(self) -> list[int] | list[list[int]]:
        """Of the residual stream, or of each layer where they differ in width."""
        each = [self.residuals[d].indices for d in self.widths]
        return each[0] if len(self.residuals) == 1 else each

    def residual(self, part: str, layer: int | None) -> Axis:
        """Channels of ``layer``, of the first layer before it, of the last behind it."""
        if layer is None:
            layer = -1 if part.startswith(("head", "final")) else 0
        return self.residuals[self.widths[layer]]

    def clone(self, name: str, parameter: nn.Parameter, role: Role) -> tuple[SubcloneRow, Tensor | None]:
        """Return the row of one student tensor and its new value, or None to keep it."""
        part, layer = role
        if not self.weights:
            return _kept(name, parameter, "nothing is copied (weights=False)")
        if part.startswith("mixer"):
            return _kept(name, parameter, "part of the SSM, which a Transformer does not have")
        if part == "stem":
            return _kept(name, parameter, "a Transformer does not have it")
        if layer is not None and layer >= self.early:
            return _kept(name, parameter, f"layer {layer} is not among the first {self.early} (early)")
        kind = part if part in ("position", "class_token", "embedding", "token_type") else part.rpartition("_")[0]
        if not getattr(self.teacher.spec, kind):
            return _kept(name, parameter, f"the teacher has no {kind}")
        residual = self.residual(part, layer)
        if part == "embedding":
            return self._embedding(name, parameter)
        if part == "position":
            return self._position(name, parameter)
        if part == "class_token":
            return self._copy(name, parameter, "class_token", None, {2: residual})
        if part == "token_type":
            return self._copy(name, parameter, "token_type", "weight", {1: residual}, summed=False)
        if part == "patch_weight":
            return self._patch(name, parameter)
        if part == "patch_bias":
            return self._copy(name, parameter, "patch", "bias", {0: residual})
        if part.startswith("head"):
            return self._head(name, parameter, part.removeprefix("head_"))
        source, tensor = part.rsplit("_", 1)
        if layer is None:
            return self._copy(name, parameter, source, tensor, {0: residual})
        hidden = self.hidden.get(layer)
        axes: dict[str, dict[int, Axis | None]] = {
            "gate_weight": {0: hidden, 1: residual},
            "fc1_weight": {0: hidden, 1: residual},
            "fc1_bias": {0: hidden},
            "fc2_weight": {0: residual, 1: hidden},
        }
        chosen = {dim: axis for dim, axis in axes.get(part, {0: residual}).items() if axis is not None}
        return self._copy(name, parameter, source, tensor, chosen, layer=self.layers[layer])

    def _embedding(self, name: str, parameter: nn.Parameter) -> tuple[SubcloneRow, Tensor | None]:
        tokens = self.teacher.part("embedding").num_embeddings
        if parameter.shape[0] != tokens:
            reason = f"vocabularies differ: student {parameter.shape[0]}, teacher {tokens}"
            return _kept(name, parameter, reason)
        axes = {1: self.residual("embedding", None)}
        return self._copy(name, parameter, "embedding", "weight", axes, summed=False)

    def _head(self, name: str, parameter: nn.Parameter, tensor: str) -> tuple[SubcloneRow, Tensor | None]:
        if parameter.shape[0] != self.teacher.num_classes:
            reason = f"classes differ: student {parameter.shape[0]}, teacher {self.teacher.num_classes}"
            return _kept(name, parameter, reason)
        return self._copy(
            name, parameter, "head", tensor, {1: self.residual("head", None)} if tensor == "weight" else {}
        )

    def _position(self, name: str, parameter: nn.Parameter) -> tuple[SubcloneRow, Tensor | None]:
        special = self.teacher.spec.special_tokens
        whole: tuple[int, ...] | None = self.student.grid  # type: ignore[assignment]
        grid = None if whole is None else whole[-2:]  # of one frame
        at: int | None = self.student.class_position  # type: ignore[assignment]
        position = self.teacher.part("position").detach()
        if grid is None:  # a text begins where it begins, however long it may be
            position = position[:, : parameter.shape[1]]
        patches = resample_tokens(position[:, special:], self.teacher.grid, grid)
        notes = []
        if grid is not None and grid != self.teacher.grid:
            notes.append(f"interpolated from {_by(self.teacher.grid or ())} to {_by(grid)}")
        if at is not None:
            patches = torch.cat([patches[:, :at], position[:, :1], patches[:, at:]], dim=1)
            notes += [f"class position moved to {at}"] if at else []
        axes = {2: self.residual("position", None)}
        return self._copy(name, parameter, "position", None, axes, value=patches, note="; ".join(notes))

    def _patch(self, name: str, parameter: nn.Parameter) -> tuple[SubcloneRow, Tensor | None]:
        weight = self.teacher.part("patch").weight.detach()
        if weight.shape[1] != parameter.shape[1]:
            reason = f"image channels differ: student {parameter.shape[1]}, teacher {weight.shape[1]}"
            return _kept(name, parameter, reason)
        axes = {0: self.residual("patch", None)}
        size, new = weight.shape[2:], parameter.shape[-2:]
        if size == parameter.shape[2:]:
            return self._copy(name, parameter, "patch", "weight", axes)
        # A flat image must give the same token: the sum over the kernel is what has to stay.
        scale, note = size.numel() / new.numel(), ""
        if size != new:
            weight = F.interpolate(weight, size=tuple(new), mode="bicubic", align_corners=False, antialias=True)
            note = f"kernel resampled from {_by(size)} to {_by(new)}"
        if parameter.dim() == 5:
            frames = parameter.shape[2]
            weight = F.pad(weight.unsqueeze(2), (0, 0, 0, 0, frames // 2, frames - 1 - frames // 2))
            note = f"{note}; in the middle of {frames} frames" if note else f"in the middle of {frames} frames"
        return self._copy(name, parameter, "patch", "weight", axes, value=weight, extra_scale=scale, note=note)

    def _copy(
        self,
        name: str,
        parameter: nn.Parameter,
        part: str,
        tensor: str | None,
        axes: dict[int, Axis],
        *,
        layer: int | None = None,
        value: Tensor | None = None,
        extra_scale: float = 1.0,
        summed: bool = True,
        note: str = "",
    ) -> tuple[SubcloneRow, Tensor | None]:
        path = self.teacher.path(part, layer)
        found = self.teacher.part(part, layer)
        found = found if tensor is None else getattr(found, tensor, None)
        source = path if tensor is None else f"{path}.{tensor}"
        if found is None:
            return _kept(name, parameter, f"the teacher has no {source}")
        value = found.detach() if value is None else value
        # Dimension 1 of a matrix is what is summed over; an embedding is not a matrix in this sense.
        scale = extra_scale * (axes[1].scale if summed and tensor == "weight" and 1 in axes else 1.0)
        return fill(name, parameter, source, value, axes, scale, note)

    def start_mixers(
        self, kind: str, images: Tensor | None, rows: dict[str, SubcloneRow], values: dict[str, Tensor]
    ) -> None:
        """Put the attention start of the early layers' mixers into ``values``, and say so in ``rows``."""
        for layer, path in enumerate(self.student.layer_names[: self.early]):  # type: ignore[index]
            block = self.student.get_submodule(path)
            prefix = f"{getattr(block, 'mixer_name', 'mixer')}."
            attention = read_attention(self.teacher, self.layers[layer])
            residual, length = self.residuals[self.widths[layer]], self._length(layer, images)
            started = attention_start(block.get_submodule(prefix[:-1]), attention, residual, length, kind)
            for local, new in started.items():
                name = f"{path}.{prefix}{local}"
                paths = [self._attention_path(part, layer) for part in new.sources]
                rows[name] = dataclasses.replace(
                    rows[name],
                    source=" + ".join(paths) or None,
                    index=new.index,
                    scale=new.scale,
                    coverage=new.filled / max(1, new.value.numel()),
                    note=new.note,
                )
                values[name] = new.value

    def _attention_path(self, part: str, layer: int) -> str:
        module, bias = part.removesuffix("_bias"), part.endswith("_bias")
        return f"{self.teacher.path(module, self.layers[layer])}.{'bias' if bias else 'weight'}"

    def _length(self, layer: int, images: Tensor | None) -> int:
        """Tokens that the mixer of ``layer`` sees."""
        grid = self.student.grids[layer]  # type: ignore[index]
        if grid is not None:
            return math.prod(grid) + (self.student.class_position is not None)
        if images is None:
            raise ValueError("mixer 'vo' and 'qkvo' of a language model need images, token ids of the usual length")
        return images.shape[1]

    def scale_mixers(
        self,
        images: Tensor | None,
        parameters: dict[str, nn.Parameter],
        rows: dict[str, SubcloneRow],
        values: dict[str, Tensor],
    ) -> None:
        """Scale the mixers' output projections in ``values``, and say so, or why not, in ``rows``."""
        names: list[list[str]] = [[] for _ in self.layers]
        for name, role in self.student.clone_roles().items():  # type: ignore[operator]
            if role.part.startswith("mixer_out"):
                names[role.layer].append(name)
        reason = ""
        if images is None:
            reason = "no images were given"
        elif images.dim() > 2 and images.shape[1] != (expected := self.student.config.in_channels):  # type: ignore[union-attr]
            reason = f"the student takes {expected} image channels, the teacher {images.shape[1]}"
        if images is None or reason:
            for name in itertools.chain.from_iterable(names):
                note = f"{rows[name].note}; not scaled to the teacher's attention: {reason}"
                rows[name] = dataclasses.replace(rows[name], note=note)
            return
        outputs = [name[0].rpartition(".")[0] for name in names]
        channels = [self.residuals[d].teacher.to(images.device) for d in self.widths]
        scales = mixer_scales(self.student, outputs, values, self.teacher, self.layers, channels, images)
        for layer, scale in enumerate(scales):
            attention = self.teacher.path("proj", self.layers[layer])
            for name in names[layer]:
                note = f"{rows[name].note}; scaled to vary as much as {attention}"
                before = rows[name].scale
                rows[name] = dataclasses.replace(rows[name], scale=scale * (before or 1.0), note=note.lstrip("; "))
                values[name] = scale * values.get(name, parameters[name].detach())


def fill(
    name: str, parameter: nn.Parameter, source: str, value: Tensor, axes: dict[int, Axis], scale: float, note: str = ""
) -> tuple[SubcloneRow, Tensor | None]:
    """Put ``scale`` times the teacher's ``value``, called ``source``, into ``parameter``, indexed by ``axes``.

    Returns the row of the report and the new value, or None where the shapes do not fit.
    """
    where = [torch.arange(n) for n in parameter.shape]
    for dim, axis in axes.items():
        value = value.index_select(dim, axis.teacher.to(value.device))
        where[dim] = axis.student
    filled = tuple(len(w) for w in where)
    if tuple(value.shape) != filled:
        return _kept(name, parameter, f"shapes do not fit: {source} gives {_by(value.shape)}, needed {_by(filled)}")
    new = parameter.detach().clone()
    mesh = torch.meshgrid(*(w.to(new.device) for w in where), indexing="ij")
    new[mesh] = value.to(new) if scale == 1.0 else (scale * value).to(new)
    index = ", ".join(filter(None, dict.fromkeys(axis.describe() for axis in axes.values())))
    coverage = math.prod(filled) / max(1, parameter.numel())
    return SubcloneRow(name, tuple(parameter.shape), parameter.numel(), source, index, scale, coverage, note), new


def _kept(name: str, parameter: nn.Parameter, reason: str) -> tuple[SubcloneRow, None]:
    return SubcloneRow(name, tuple(parameter.shape), parameter.numel(), note=reason), None


def _by(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
