"""All three parts of a LLaVA cloned into a vision-language model of Mambas."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import torch
from torch import Tensor

from transmamba.distill.axis import Axis
from transmamba.distill.cloner import fill
from transmamba.distill.layer_map import layer_map
from transmamba.distill.report import SubcloneReport
from transmamba.distill.subcloning import SubcloneConfig, subclone
from transmamba.models import MambaVLM
from transmamba.teachers import LlavaTeacher


@torch.no_grad()
def subclone_llava(
    student: MambaVLM,
    teacher: LlavaTeacher,
    vision: SubcloneConfig | None = None,
    language: SubcloneConfig | None = None,
    images: Iterable[Tensor] | None = None,
    texts: Iterable[Tensor] | None = None,
) -> dict[str, SubcloneReport]:
    """Copy a LLaVA's vision tower, projector and language model into ``student``, in place.

    The towers are cloned by :func:`subclone`. The projector's inputs are the channels that the vision tower kept, its
    outputs those of the language model; of its hidden units the largest weights are kept. With equal shapes every copy
    is exact.

    Args:
        student: The vision-language model.
        teacher: From :func:`transmamba.teachers.create_llava_teacher`.
        vision, language: Choices for the two towers. A ``layer_map`` in words spans the vision layers that LLaVA uses.
        images: Batches for the vision tower, see :func:`subclone`.
        texts: Batches of token ids without images for the language model, see :func:`subclone`.

    Returns:
        A report for each of ``"vision_tower"``, ``"multi_modal_projector"`` and ``"language_model"``.
    """
    config = SubcloneConfig() if vision is None else vision
    if isinstance(config.layer_map, str):
        layers = layer_map(config.layer_map, len(student.vision_tower.widths), teacher.vision_layers)
        config = dataclasses.replace(config, layer_map=layers)
    seen = subclone(student.vision_tower, teacher.vision, config, images)
    read = subclone(student.language_model, teacher.language, language, texts)
    others = tuple(id(p) for part in (teacher.vision, teacher.projector) for p in part.parameters())
    names = {name for name, p in teacher.language.model.named_parameters() if id(p) in others}
    return {
        "vision_tower": seen,
        "multi_modal_projector": _projector(student, teacher, seen, read),
        "language_model": dataclasses.replace(read, unused=[name for name in read.unused if name not in names]),
    }


def _projector(student: MambaVLM, teacher: LlavaTeacher, seen: SubcloneReport, read: SubcloneReport) -> SubcloneReport:
    theirs, ours = teacher.projector, student.multi_modal_projector
    first, second = theirs.linear_1, theirs.linear_2
    size = first.weight.norm(dim=1) + second.weight.norm(dim=0)
    hidden = Axis.choose("units", size, len(first.weight), len(ours.linear_1.weight))
    into = _axis(seen, teacher.vision.d_model, student.vision_tower.widths[-1])
    out = _axis(read, teacher.language.d_model, student.config.d_model)
    given = {
        "linear_1.weight": (first.weight, {0: hidden, 1: into}, into.scale),
        "linear_1.bias": (first.bias, {0: hidden}, 1.0),
        "linear_2.weight": (second.weight, {0: out, 1: hidden}, hidden.scale),
        "linear_2.bias": (second.bias, {0: out}, 1.0),
    }
    rows = []
    for name, parameter in ours.named_parameters():
        value, axes, scale = given[name]
        row, new = fill(name, parameter, name, value.detach(), axes, scale)
        rows.append(row)
        if new is not None:
            parameter.copy_(new)
    return SubcloneReport(rows, out.indices, {0: hidden.indices}, [0], 1, {}, [])


def _axis(report: SubcloneReport, n_teacher: int, n_student: int) -> Axis:
    """The channels that ``report`` says of its last layer."""
    channels = report.channels
    last = channels if isinstance(channels[0], int) else channels[-1]
    wider, narrower = torch.tensor(last), torch.arange(len(last))  # type: ignore[arg-type]
    taken, filled = (wider, narrower) if n_student <= n_teacher else (narrower, wider)
    return Axis("channels", taken, filled, n_teacher, n_student)
