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
        tensors = _tensors(given, mixer)
        for local, parameter in mixer.named_parameters():
            part = _rows_of_scan(local, mixer)
            if part is None or not parameter[part].numel():
                continue
            name, other = prefix + local, local if local in tensors else re.sub(r"_b(?=[._]|$)", "", local)
            found, row = tensors.get(other), rows[name]
            if found is None or found.shape != parameter.shape:
                reason = f"has no {other}" if found is None else f"has {other} of shape {tuple(found.shape)}"
                rows[name] = dataclasses.replace(row, note="; ".join(filter(None, [row.note, f"ssm_from {reason}"])))
                continue
            value = values.get(name, parameter.detach()).clone()
            value[part] = found[part].to(value)
            values[name] = value
            rows[name] = _row(row, f"ssm_from:{source}{other}", value[part].numel() / value.numel(), local)
            taken += 1
    if not taken:
        raise ValueError(f"ssm_from {str(folder)!r}: nothing of {donor.name} fits the student's mixers")


def _tensors(given: Any, mixer: Any) -> dict[str, Tensor]:
    """The donor's tensors by name, as they would be in a mixer like ``mixer``."""
    tensors = {name: parameter.detach() for name, parameter in given.named_parameters()}
    bias = mixer.in_proj.bias
    if bias is not None and given.in_proj.bias is None and given.in_proj.weight.shape == mixer.in_proj.weight.shape:
        tensors["in_proj.bias"] = torch.zeros_like(bias)  # a gate without a bias
    counted = [2 if getattr(of, "double_dt_bias", False) else 1 for of in (given, mixer)]
    if counted[0] != counted[1] and "dt_proj.bias" in tensors:
        tensors["dt_proj.bias"] = tensors["dt_proj.bias"] * (counted[0] / counted[1])
    return tensors


def _rows_of_scan(local: str, mixer: Any) -> Any:
    """Index of what is taken of a tensor, or None: of ``x_proj`` the step size, of ``in_proj`` the gate."""
    if local.startswith("x_proj"):
        return ..., slice(mixer.dt_rank), slice(None)
    if local.startswith("in_proj"):
        return slice(mixer.d_inner, None)
    return ... if _WHOLE.match(local) else None


def _row(row: SubcloneRow, origin: str, share: float, local: str) -> SubcloneRow:
    if share == 1:
        return SubcloneRow(row.tensor, row.shape, row.numel, origin, coverage=1.0)
    what = f"{'step size' if local.startswith('x_proj') else 'gate'} of ssm_from"
    if row.source is None:
        return dataclasses.replace(row, source=origin, coverage=share, note=what)
    coverage = min(1.0, row.coverage + share)
    return dataclasses.replace(row, source=f"{row.source} + {origin}", coverage=coverage, note=f"{row.note}; {what}")


def _mixer(model: nn.Module, path: str) -> tuple[str, Any]:
    block = model.get_submodule(path)
    name = getattr(block, "mixer_name", "mixer")
    return f"{path}.{name}.", block.get_submodule(name)
