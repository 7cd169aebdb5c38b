r"""Start a Mamba mixer as the attention it replaces.

With no decay, a constant step size :math:`1 / L`, a convolution that passes its input and a gate of 1, a scan is

.. math:: y_l = D v_l + \frac{1}{L} \sum_{t \le l} (C_l^\top B_t)\, v_t, \qquad v = W_V x + b_V,

a linear attention whose values and output projection a Transformer has (``"vo"``), and its queries and keys too
(``"qkvo"``). The mixers have a SiLU before the scan, so a value takes two inner channels, :math:`v` and :math:`-v`,
which ``out_proj`` subtracts: :math:`\mathrm{silu}(v) - \mathrm{silu}(-v) = v`, and the scan is linear in them.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor, nn

from transmamba.distill.attention import Attention
from transmamba.distill.axis import Axis
from transmamba.layers import SS2D, BiMamba, Mamba, PlainMamba2D

MIXERS = ("none", "vo", "qkvo")
_KNOWN = (Mamba, BiMamba, PlainMamba2D, SS2D)
_GATE = 1.278464542761074  # silu of this is 1
# Directions of V that are so much weaker than the strongest one are left out: solving for them makes B and C large, and
# the training unsteady.
_RTOL = 0.1


@dataclasses.dataclass(frozen=True)
class Started:
    """The new value of one tensor of a mixer.

    Attributes:
        value: Like the tensor.
        sources: Parts of the teacher's attention in it, such as ``"value"``.
        index: Which values, states and channels were taken.
        scale: What they were multiplied by.
        filled: How many elements came from the teacher.
        note: What the tensor does now.
    """

    value: Tensor
    sources: tuple[str, ...] = ()
    index: str = ""
    scale: float | None = None
    filled: int = 0
    note: str = ""


def check_mixers(student: nn.Module, kind: str) -> None:
    """Raise unless the mixers of ``student`` can start as ``kind``, one of :data:`MIXERS`.

    Raises:
        ValueError: They cannot; the message names the student and says why.
    """
    if kind == "none":
        return
    name = getattr(student, "name", type(student).__name__)
    for path in student.layer_names:  # type: ignore[union-attr]
        mixer = _mixer(student, path)
        if not isinstance(mixer, _KNOWN):
            raise ValueError(f"mixer {kind!r} does not know the {type(mixer).__name__} of student {name}; use 'none'")
        if _gated(mixer) and mixer.in_proj.bias is None:
            raise ValueError(
                f"mixer {kind!r} needs a bias in the mixers of student {name}, for a gate of 1: "
                "build it with bias=True, or use 'none'"
            )
        if kind == "qkvo" and isinstance(mixer, PlainMamba2D) and not mixer.permute_params:
            raise ValueError(
                f"mixer 'qkvo' needs student {name} with permute_params=True: else a token is not given its own B and C"
            )


def attention_start(mixer: Any, attention: Attention, residual: Axis, length: int, kind: str) -> dict[str, Started]:
    """Return the new tensors of ``mixer`` by name; those that it does not name, ``D`` among them, stay.

    Args:
        mixer: One of :mod:`transmamba.layers`.
        attention: What it is to do.
        residual: Channels of the residual stream.
        length: Tokens of a sequence.
        kind: ``"vo"`` or ``"qkvo"``.
    """
    own = {name: parameter.detach() for name, parameter in mixer.named_parameters()}
    inner, n = attention.value.shape[0], min(attention.value.shape[0], mixer.d_inner // 2)
    kept = _largest(attention.value.norm(dim=1) * attention.proj.norm(dim=0), n)
    values = attention.value[kept]
    started: dict[str, Started] = {}
    index = ", ".join(filter(None, [f"{n} of {inner} values" if n < inner else "", residual.describe()]))

    weight = own["in_proj.weight"].clone()
    weight[:n, residual.student] = (residual.scale * values[:, residual.teacher]).to(weight)
    weight[n : 2 * n] = -weight[:n]
    gate = "; gate 1" if _gated(mixer) else ""
    weight[mixer.d_inner :] = 0
    filled = 2 * n * len(residual.student)
    started["in_proj.weight"] = Started(weight, ("value",), index, residual.scale, filled, f"V and -V to x{gate}")
    if "in_proj.bias" in own:
        bias = own["in_proj.bias"].clone()
        bias[:n] = 0 if attention.value_bias is None else attention.value_bias[kept].to(bias)
        bias[n : 2 * n] = -bias[:n]
        bias[mixer.d_inner :] = _GATE
        has = attention.value_bias is not None
        sources = ("value_bias",) if has else ()
        started["in_proj.bias"] = Started(bias, sources, index if has else "", None, 2 * n * has, f"V and -V{gate}")

    weight, scale = own["out_proj.weight"].clone(), math.sqrt(inner / n) if n < inner else 1.0
    weight[residual.student, :n] = (scale * attention.proj[residual.teacher][:, kept]).to(weight)
    weight[:, n : 2 * n] = -weight[:, :n]
    started["out_proj.weight"] = Started(weight, ("proj",), index, scale, filled, "O and -O")
    if "out_proj.bias" in own and attention.proj_bias is not None:
        bias = own["out_proj.bias"].clone()
        bias[residual.student] = attention.proj_bias[residual.teacher].to(bias)
        taken = len(residual.student)
        started["out_proj.bias"] = Started(bias, ("proj_bias",), residual.describe(), 1.0, taken)

    for name, tensor in own.items():
        if kind == "qkvo" and name.startswith("x_proj"):
            started[name] = _queries_and_keys(mixer, tensor, attention, residual, started["in_proj.weight"].value[:n])
        elif (silent := _silent(mixer, name, tensor, length)) is not None:
            started[name] = silent
    return started


def _silent(mixer: Any, name: str, tensor: Tensor, length: int) -> Started | None:
    """The tensors that an attention does not have, set so that they do nothing."""
    if name.startswith("conv"):
        value = torch.zeros_like(tensor)
        if name.endswith("weight"):
            # The last tap of a causal convolution is the token itself, the middle one of a convolution in 2-D.
            value[(..., -1) if tensor.dim() == 3 else (..., tensor.shape[-2] // 2, tensor.shape[-1] // 2)] = 1
        return Started(value, note="passes its input")
    if name.startswith("dt_proj"):
        if name.endswith("weight"):
            return Started(torch.zeros_like(tensor), note="the step size does not depend on the input yet")
        step = math.log(math.expm1(1 / length))
        step = step / 2 if getattr(mixer, "double_dt_bias", False) else step
        return Started(torch.full_like(tensor, step), note=f"step size 1/{length}")
    if name.startswith("A_"):
        return Started(torch.full_like(tensor, -20.0), note="no decay")
    return None


def _queries_and_keys(mixer: Any, own: Tensor, attention: Attention, residual: Axis, weight_of_x: Tensor) -> Started:
    r"""``x_proj`` whose B is the keys and whose C is the queries, one index set of states per head for both.

    B and C are projected from the inner channels, not from the block's input, so ``W_B W_x ~ W_K`` is solved by least
    squares, which is exact where the values determine the input well. C is scaled so that :math:`C^\top B` estimates
    the mean over the heads of :math:`q^\top k / \sqrt{d}`.
    """
    states, ranks, inner, n = mixer.d_state, mixer.dt_rank, attention.query.shape[0], weight_of_x.shape[0]
    heads, m = inner // attention.head_dim, min(mixer.d_state, inner)
    strength = (attention.query.norm(dim=1) * attention.key.norm(dim=1)).view(heads, -1)
    taken = (_largest(row, m // heads + (h < m % heads)) + h * attention.head_dim for h, row in enumerate(strength))
    kept = torch.cat(list(taken))
    scale = math.sqrt(attention.head_dim) / m
    wanted = residual.scale * torch.cat([attention.key[kept], scale * attention.query[kept]])[:, residual.teacher]
    x = weight_of_x[:, residual.student].double().cpu()
    solved = wanted @ torch.linalg.pinv(x, rtol=_RTOL)
    error = ((solved @ x - wanted).norm() / wanted.norm()).item()

    value = own.clone()
    value[..., ranks : ranks + states, :] = 0  # of a state that no key has
    for start, rows in ((ranks, solved[:m]), (ranks + states, solved[m:])):
        value[..., start : start + m, :n] = rows.to(value)
        value[..., start : start + m, n : 2 * n] = -rows.to(value)
        value[..., start : start + m, 2 * n :] = 0
    index = f"{m} of {inner} queries and keys" if m < inner else ""
    note = f"K to B and Q to C through x by least squares, relative error {error:.2g}"
    filled = 4 * m * n * (own.numel() // math.prod(own.shape[-2:]))
    return Started(value, ("query", "key"), index, residual.scale, filled, note)


def _largest(scores: Tensor, n: int) -> Tensor:
    return scores.sort(descending=True, stable=True).indices[:n].sort().values


def _gated(mixer: Any) -> bool:
    return mixer.in_proj.out_features > mixer.d_inner


def _mixer(student: nn.Module, path: str) -> Any:
    block = student.get_submodule(path)
    return block.get_submodule(getattr(block, "mixer_name", "mixer"))
