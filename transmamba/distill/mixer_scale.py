"""How loud a fresh mixer must be to take the place of an attention."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from transmamba.distill.batches import resized
from transmamba.teachers import Teacher

# Beyond this a factor says that something is broken, not that it is quiet.
_LIMITS = (0.01, 100.0)


def mixer_scales(
    student: nn.Module,
    outputs: Sequence[str],
    values: dict[str, Tensor],
    teacher: Teacher,
    layers: Sequence[int],
    channels: Sequence[Tensor],
    images: Tensor,
) -> list[float]:
    r"""Factor per student layer that makes its mixer vary as much as the attention of the teacher's layer.

    .. math:: s_i = \frac{\sigma(\mathrm{attention}^{\tau(i)}[I])}{\sigma(\mathrm{mixer}^i)}, \qquad
        \sigma(x)^2 = \operatorname{mean}_c \operatorname{var}_{b,l}(x_{blc})

    A mixer at its own initialisation gives about a tenth of what an attention adds to the residual stream. The cloned
    MLPs expect that much mixing and drown the little there is; scaling the output projection once removes this.

    Args:
        student: The model.
        outputs: Module path of each layer's projection to the mixer's output.
        values: The student's parameters after cloning, which need not be written yet.
        teacher: The Transformer.
        layers: Teacher layer per student layer.
        channels: Teacher channels that each student layer has.
        images: One batch, ``(batch, channels, H, W)``, resized to the student's size, or of token ids.
    """
    heard: list[Tensor] = []
    watched = [teacher.part("proj", layer) for layer in range(teacher.depth)]
    hooks = [part.register_forward_hook(lambda _m, _a, out: heard.append(_variances(out))) for part in watched]
    try:
        teacher(images)
    finally:
        for hook in hooks:
            hook.remove()

    own: list[float] = []
    if student.grid is not None:
        images = resized(images, student.config.image_size)  # type: ignore[union-attr, arg-type]
    device = next(student.parameters()).device
    mixers = [student.get_submodule(path) for path in outputs]
    hooks = [part.register_forward_hook(lambda _m, _a, out: own.append(_spread(_variances(out)))) for part in mixers]
    try:
        torch.func.functional_call(student, values, (images.to(device),))
    finally:
        for hook in hooks:
            hook.remove()
    low, high = _LIMITS
    wanted = [_spread(heard[t][c]) for t, c in zip(layers, channels, strict=True)]
    return [min(max(w / s, low), high) if s > 0 else 1.0 for w, s in zip(wanted, own, strict=True)]


def _variances(output: Tensor) -> Tensor:
    return output.float().flatten(0, -2).var(0, correction=0)


def _spread(variances: Tensor) -> float:
    return variances.mean().sqrt().item()
