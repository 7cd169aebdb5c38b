"""Which channels and hidden units of a teacher to keep when the student is narrower."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from transmamba.distill.batches import check_batch
from transmamba.teachers import Teacher

IMPORTANCES = ("activation", "stability", "magnitude", "first")


@dataclasses.dataclass
class Importance:
    """Scores, larger is more important.

    Attributes:
        channels: Of the residual stream, ``(d_model,)``; one set for all layers, since they share the stream.
        hidden: Of each layer's MLP units, each ``(d_hidden,)``.
    """

    channels: Tensor
    hidden: list[Tensor]


def measure_importance(
    teacher: Teacher, kind: str, images: Iterable[Tensor] | None = None, pretrained: Teacher | None = None
) -> Importance:
    r"""Score a teacher's channels and hidden units.

    * ``"activation"``: mean absolute value over ``images``, normalised per layer and summed over layers: Samragh et
      al., "Weight subcloning" (https://arxiv.org/abs/2312.09299), section 3.1.
    * ``"stability"``: minus the relative change of a channel's weights from ``pretrained`` to ``teacher``, summed
      over the tensors: TransMamba (https://arxiv.org/abs/2502.15130) keeps the neurons that fine-tuning changes least.
    * ``"magnitude"``: norm of a channel's weights, normalised per tensor and summed.
    * ``"first"``: the first ones.

    Raises:
        ValueError: ``images`` or ``pretrained`` is missing where it is needed, or does not fit.
    """
    if kind == "activation":
        return _activation(teacher, images)
    if kind == "stability":
        if pretrained is None:
            raise ValueError("importance 'stability' needs pretrained, the teacher before its fine-tuning")
        if (pretrained.d_model, pretrained.depth, pretrained.d_hidden) != (
            teacher.d_model,
            teacher.depth,
            teacher.d_hidden,
        ):
            raise ValueError("pretrained must have the teacher's width, depth and hidden units")
        return _by_weights(teacher, pretrained)
    if kind == "magnitude":
        return _by_weights(teacher, None)
    if kind == "first":
        return Importance(_descending(teacher.d_model), [_descending(teacher.d_hidden)] * teacher.depth)
    raise ValueError(f"importance must be one of {', '.join(IMPORTANCES)}, got {kind!r}")


def _descending(n: int) -> Tensor:
    return torch.arange(n, 0, -1, dtype=torch.float64)


def _activation(teacher: Teacher, images: Iterable[Tensor] | None) -> Importance:
    if images is None:
        raise ValueError("importance 'activation' needs images; give some, or choose 'magnitude' or 'first'")
    channels = [torch.zeros(teacher.d_model, dtype=torch.float64) for _ in range(teacher.depth)]
    hidden = [torch.zeros(teacher.d_hidden, dtype=torch.float64) for _ in range(teacher.depth)]

    def watch(layer: int):
        def keep(_module, args):
            hidden[layer] += args[0].detach().abs().flatten(0, -2).sum(0).double().cpu()

        return teacher.part("fc2", layer).register_forward_pre_hook(keep)

    hooks = [watch(layer) for layer in range(teacher.depth)]
    seen = 0
    try:
        for batch in images:
            check_batch(batch)
            seen += batch.shape[0]
            for total, feature in zip(channels, teacher(batch).features, strict=True):
                total += feature.abs().flatten(0, -2).sum(0).double().cpu()
    finally:
        for hook in hooks:
            hook.remove()
    if not seen:
        raise ValueError("images must hold at least one image")
    return Importance(_normalised_sum(channels), hidden)


def _by_weights(teacher: Teacher, pretrained: Teacher | None) -> Importance:
    def score(now: list[Tensor], then: list[Tensor] | None) -> Tensor:
        if then is None:
            return _normalised_sum([w.norm(dim=1) for w in now])
        changes = [(w - b).norm(dim=1) / b.norm(dim=1).clamp(min=1e-12) for w, b in zip(now, then, strict=True)]
        return -torch.stack(changes).sum(0)

    def before(weights: Callable[..., list[Tensor]], *layer: int) -> list[Tensor] | None:
        return None if pretrained is None else weights(pretrained, *layer)

    return Importance(
        score(_channel_weights(teacher), before(_channel_weights)),
        [score(_hidden_weights(teacher, i), before(_hidden_weights, i)) for i in range(teacher.depth)],
    )


def _channel_weights(teacher: Teacher) -> list[Tensor]:
    """Every matrix that writes to the residual stream or reads it, as ``(d_model, fan)``."""
    spec, weights = teacher.spec, []
    if spec.patch:
        weights += [teacher.part("patch").weight.flatten(1)]
    if spec.embedding:
        weights += [teacher.part("embedding").weight.t()]
    if spec.position:
        weights += [teacher.part("position")[0].t()]
    gate = ["gate"] if spec.gate else []
    for i in range(teacher.depth):
        weights += [teacher.part(name, i).weight for name in ("proj", "fc2")]
        weights += [teacher.part(name, i).weight.t() for name in ("query", "key", "value", "fc1", *gate)]
    return [w.detach().double().cpu() for w in weights]


def _hidden_weights(teacher: Teacher, layer: int) -> list[Tensor]:
    """What leads to and from the MLP units of a layer, as ``(d_hidden, d_model)``."""
    weights = [teacher.part("fc1", layer).weight, teacher.part("fc2", layer).weight.t()]
    if teacher.spec.gate:
        weights.append(teacher.part("gate", layer).weight)
    return [w.detach().double().cpu() for w in weights]


def _normalised_sum(scores: list[Tensor]) -> Tensor:
    return torch.stack([s / s.sum().clamp(min=1e-12) for s in scores]).sum(0)
