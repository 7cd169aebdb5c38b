"""What a student's scans can take from another Mamba, since no Transformer has it: A, D, the step size, the rest."""

from __future__ import annotations

import dataclasses
import os
import re
from typing import Any

import torch
from torch import Tensor, nn

from transmamba.distill.layer_map import layer_map
from transmamba.distill.report import SubcloneRow
from transmamba.models import load_pretrained

_WHOLE = re.compile(r"(A_|D|conv|dt_proj)")  # names of the mixers' tensors that are taken as they are


def take_scans(
    student: nn.Module, folder: str | os.PathLike[str], rows: dict[str, SubcloneRow], values: dict[str, Tensor]
) -> None:
    """Write A, D, step size, convolution and gate of the student saved in ``folder`` to ``values``, and say so.

    Every layer takes from the donor's layer that :func:`transmamba.distill.layer_map` gives it. Of ``x_proj`` the rows
    of the step size are taken, of ``in_proj`` those of the gate. A donor with one direction gives to both of a
    bidirectional student. What does not fit keeps its value, and its row says why.

    Raises:
        ValueError: Nothing of the donor fits; also as of :func:`transmamba.models.load_pretrained`.
        FileNotFoundError: As of :func:`transmamba.models.load_pretrained`.
    """
    donor: Any = load_pretrained(folder)
    paths: list[str] = student.layer_names  # type: ignore[assignment]
    layers = layer_map("uniform", len(paths), len(donor.layer_names))
    taken = 0
    for path, theirs in zip(paths, layers, strict=True):
        prefix, mixer = _mixer(student, path)
        source, given = _mixer(donor, donor.layer_names[theirs])
        tensors = dict(given.named_parameters())
        for local, parameter in mixer.named_parameters():
            if not (_WHOLE.match(local) or local.startswith(("x_proj", "in_proj"))):
                continue
            name, other = prefix + local, local
            if other not in tensors:
                other = re.sub(r"_b(?=[._]|$)", "", local)
            found, row = tensors.get(other), rows[name]
            value = values.get(name, parameter.detach()).clone()
            part = _rows_of_scan(local, mixer)
            if not value[part].numel():
                continue
            if found is None and local == "in_proj.bias":
                found = torch.zeros_like(parameter)  # a gate without a bias
            if found is None or found.shape != parameter.shape:
                reason = f"has no {other}" if found is None else f"has {other} of shape {tuple(found.shape)}"
                rows[name] = dataclasses.replace(row, note="; ".join(filter(None, [row.note, f"ssm_from {reason}"])))
                continue
            value[part] = found.detach()[part].to(value)
            values[name] = value
            origin, share = f"ssm_from:{source}{other}", value[part].numel() / value.numel()
            if share == 1:
                rows[name] = SubcloneRow(name, row.shape, row.numel, origin, coverage=1.0)
            else:
                what = f"{'step size' if local.startswith('x_proj') else 'gate'} of ssm_from"
                note = what if row.source is None else f"{row.note}; {what}"
                origin = origin if row.source is None else f"{row.source} + {origin}"
                rows[name] = dataclasses.replace(row, source=origin, coverage=min(1.0, row.coverage + share), note=note)
            taken += 1
    if not taken:
        raise ValueError(f"ssm_from {str(folder)!r}: nothing of {donor.name} fits the student's mixers")


def _rows_of_scan(local: str, mixer: Any) -> Any:
    if local.startswith("x_proj"):
        return ..., slice(mixer.dt_rank), slice(None)
    return slice(mixer.d_inner, None) if local.startswith("in_proj") else ...


def _mixer(model: nn.Module, path: str) -> tuple[str, Any]:
    block = model.get_submodule(path)
    name = getattr(block, "mixer_name", "mixer")
    return f"{path}.{name}.", block.get_submodule(name)
