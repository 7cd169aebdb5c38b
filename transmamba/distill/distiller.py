"""Stage 2: adaptive multi-directional distillation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from transmamba.distill.calibration import MODES, Calibration
from transmamba.distill.directions import DIRECTIONS, direction_features, direction_names
from transmamba.distill.layer_map import layer_map
from transmamba.distill.losses import (
    WEIGHTINGS,
    adaptive_weights,
    depth_weights,
    direction_loss,
    kd_loss,
    learned_loss,
    mean_cosine,
    official_loss,
    rescale,
    task_loss,
)
from transmamba.distill.taps import Taps
from transmamba.layers.parameters import without_weight_decay
from transmamba.teachers import Teacher


@dataclasses.dataclass(frozen=True)
class DistillConfig:
    """Weights and choices of the distillation.

    Attributes:
        alpha, beta, kappa: Weights of the feature, task and logits terms; 0 leaves a term out.
        temperature: Of the logits term.
        weighting: Of the layers: ``"adaptive"``, ``"uniform"``, ``"depth"``, ``"learned"`` (parameters beside the
            student's); ``"official"`` replaces the whole loss by that of the authors' released code, and alpha, beta,
            kappa and directions are not used.
        directions: ``"both"`` (all of the student's), ``"forward"``, or ``"merged"`` (the layer's output only).
        calibration: ``"none"``, ``"pad"``, ``"linear"`` or ``"mlp"``.
        clip, floor, ema: Of the adaptive weights: their range, the least cosine divided by, and the part of the old
            weights kept at each step.
        alpha_decay: Part of the training, at its end, over which alpha goes linearly to 0; 0 keeps it.
        detach: False lets gradients through the adaptive weights (then without EMA); for the ablation only.
        layer_map: As in :func:`transmamba.distill.layer_map`.
    """

    alpha: float = 0.2
    beta: float = 0.8
    kappa: float = 0.5
    temperature: float = 2.0
    weighting: str = "adaptive"
    directions: str = "both"
    calibration: str = "mlp"
    clip: tuple[float, float] = (0.2, 5.0)
    floor: float = 0.05
    ema: float = 0.9
    alpha_decay: float = 0.0
    detach: bool = True
    layer_map: str | Sequence[int] = "uniform"

    def __post_init__(self) -> None:
        for name, allowed in (("weighting", WEIGHTINGS), ("directions", DIRECTIONS), ("calibration", MODES)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        for name in ("alpha", "beta", "kappa"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be 0 or positive, got {getattr(self, name)}")
        if self.weighting != "official" and not (self.alpha or self.beta or self.kappa):
            raise ValueError("alpha, beta and kappa are all 0: there is nothing to learn from")
        for name in ("temperature", "floor"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if len(self.clip) != 2 or not 0 < self.clip[0] <= self.clip[1] < float("inf"):
            raise ValueError(f"clip must be (low, high) with 0 < low <= high, got {self.clip}")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema must be at least 0 and below 1, got {self.ema}")
        if not 0 <= self.alpha_decay <= 1:
            raise ValueError(f"alpha_decay must be a part of the training, from 0 to 1, got {self.alpha_decay}")


class Distiller(nn.Module):
    r"""A student, what calibrates it, and the loss that draws it to a teacher.

    .. math:: L = \beta L_{task} + \alpha \frac{1}{K} \sum_k \mathrm{AdaMAD}_k + \kappa T^2 \mathrm{KL}(p_T \| p_S)

    TransMamba (https://arxiv.org/abs/2502.15130), adaptive multi-directional distillation. ``parameters()`` are the
    student's, the calibration's and the weights' where these are learned; the teacher is in neither ``parameters()``
    nor ``state_dict()``, but moves along with ``to()``.

    Args:
        student: A :class:`transmamba.models.Student`, such as Vim.
        teacher: A :class:`transmamba.teachers.Teacher`.
        config: A :class:`DistillConfig`.
        channels: ``SubcloneReport.channels``, so that the calibration starts with each student channel beside the
            teacher channel it was cloned from. Only felt when the widths differ.
        criterion: The task's term, of the student's output and the labels.

    Raises:
        ValueError, TypeError: An argument does not fit the others; the message names it.
    """

    layer_weights: Tensor

    def __init__(
        self,
        student: nn.Module,
        teacher: Teacher,
        config: DistillConfig | None = None,
        channels: Sequence[int] | Sequence[Sequence[int]] | None = None,
        criterion: Callable[[Tensor, Tensor], Tensor] = task_loss,
    ):
        super().__init__()
        config = DistillConfig() if config is None else config
        if not isinstance(teacher, Teacher):
            raise TypeError(f"teacher must come from create_teacher, got {type(teacher).__name__}")
        if not hasattr(student, "forward_features"):
            raise TypeError(f"student must be a model with forward_features, got {type(student).__name__}")
        self.config = config
        self.student = student
        self.criterion = criterion
        shape: Any = student.config
        official = config.weighting == "official"
        if config.kappa and not official and not teacher.num_classes:
            raise ValueError("kappa must be 0 with a teacher without a head: it has no logits to learn from")
        if config.kappa and not official and shape.num_classes != teacher.num_classes:
            raise ValueError(
                f"kappa must be 0 when the classes differ: student {shape.num_classes}, teacher {teacher.num_classes}"
            )
        depth = shape.depth
        self.layer_map = layer_map("last" if official else config.layer_map, depth, teacher.depth)
        self._directions = "merged" if official else config.directions
        self.direction_names = direction_names(self._directions, student.directions)  # type: ignore[arg-type]
        widths: list[int] = student.widths  # type: ignore[assignment]
        self.calibration = Calibration(widths, teacher.d_model, depth, config.calibration, channels)
        self.register_buffer("layer_weights", torch.ones(len(self.direction_names), depth))
        # What is learned instead, beside the student; like an A_log it does not decay.
        self.log_variance: nn.Parameter | None = None
        if config.weighting == "learned":
            self.log_variance = without_weight_decay(torch.zeros(len(self.direction_names), depth))
        self._teacher = (teacher,)  # in a tuple: not a submodule, so in no list of parameters and in no state

    @property
    def teacher(self) -> Teacher:
        """The teacher, frozen."""
        return self._teacher[0]

    def _apply(self, fn, recurse=True):
        self.teacher._apply(fn, recurse)
        return super()._apply(fn, recurse)

    def loss(
        self,
        images: Tensor | Mapping[str, Tensor],
        labels: Tensor | None,
        progress: float = 0.0,
        attention_mask: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of one batch; in train mode it also advances the adaptive weights by one step.

        Args:
            images: ``(batch, channels, H, W)``, videos with frames before ``H``, or token ids ``(batch, length)``;
                what a vision-language model takes, by name, with the ``attention_mask`` of its tokens where it has one.
            labels: Class indices ``(batch,)`` or probabilities ``(batch, classes)``; for text the token behind each
                token, ``(batch, length)``, -100 where there is none; None only with ``beta = 0``.
            progress: Part of the training that is done, 0 to 1; felt by ``alpha_decay`` alone.
            attention_mask: Of token ids, for a student that takes one: ``(batch, length)``, 0 or False where a token is
                padding, whose features, and logits where every token has some, do not count.

        Returns:
            The scalar to differentiate, and detached metrics: ``total``, ``task``, ``feature``, ``kd`` (each before its
            weight), ``cosine_<direction>`` (mean over layers), and the student's ``logits``.
        """
        if not 0 <= progress <= 1:
            raise ValueError(f"progress must be from 0 to 1, got {progress}")
        config = self.config
        official = config.weighting == "official"
        alpha = 1.0 if official else config.alpha * self.remaining(progress)
        beta, kappa = (1.0, 0.0) if official else (config.beta, config.kappa)
        if labels is None and beta:
            raise ValueError("labels are needed unless beta is 0")

        taps = Taps(directions=self._directions != "merged") if alpha else None
        masks = () if attention_mask is None else (attention_mask,)
        mask = images.get("attention_mask") if isinstance(images, Mapping) else attention_mask
        mask = None if mask is None else mask.bool()
        features = self.student.forward_features(images, taps, *masks)  # type: ignore[operator]
        logits = self.student.head(features, *masks)  # type: ignore[operator]
        seen = self.teacher(images, *masks) if alpha or kappa else None

        zero, rows = logits.new_zeros(()), logits.flatten(0, -2)  # one row per image, or per token of a text
        task = zero
        if beta and labels is not None:
            task = self.criterion(logits, labels)
        kd = zero
        if kappa and seen is not None and seen.logits is not None:
            kept = slice(None) if mask is None or logits.dim() < 3 else mask.flatten()
            kd = kd_loss(rows[kept], seen.logits.flatten(0, -2)[kept], config.temperature)
        feature, cosines = zero, dict[str, Tensor]()
        if taps is not None and seen is not None:
            feature, cosines = self.feature_loss(taps, seen.features, seen.grid, mask)
        total = beta * task + alpha * feature + kappa * kd
        metrics = {"total": total, "task": task, "feature": feature, "kd": kd, **cosines, "logits": logits}
        return total, {name: value.detach() for name, value in metrics.items()}

    def feature_loss(
        self,
        taps: Taps,
        features: list[Tensor],
        grid: tuple[int, ...] | None,
        attention_mask: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The feature term alone, for a task with a loss of its own: weighted, but not yet by alpha.

        Args:
            taps: What the student's ``forward_features`` recorded.
            features, grid: As in :class:`transmamba.teachers.teacher.TeacherOutput`.
            attention_mask: As in :meth:`loss`.

        Returns:
            The scalar, and ``cosine_<direction>`` (mean over layers).
        """
        # Student layers that share a teacher layer, grid and width share a target, resampled and normalised once.
        grids: list[Any] = self.student.grids  # type: ignore[assignment]
        wanted = list(zip(self.layer_map, grids, self.calibration.widths, strict=True))
        mask = None if attention_mask is None else attention_mask.bool()
        counted = (lambda f: f) if mask is None else (lambda f: f[mask])  # the tokens, all in one row
        shared = {
            key: counted(self.calibration.teacher(features[key[0]], grid, key[1], wanted.index(key)))
            for key in dict.fromkeys(wanted)
        }
        targets = [shared[key] for key in wanted]
        per_layer = [direction_features(taps, i, self._directions) for i in range(len(self.layer_map))]

        def calibrated(feature: Tensor, layer: int) -> Tensor:
            return self.calibration(counted(feature), layer)

        def agreement(feature: Tensor, layer: int) -> Tensor:
            return mean_cosine(calibrated(feature, layer), targets[layer])

        # Computed again in the backward pass: kept, these features would be half of the distillation's memory.
        cosine = torch.stack(
            [
                torch.stack([checkpoint(agreement, f, i, use_reentrant=False, preserve_rng_state=False) for f in fs])
                for i, fs in enumerate(per_layer)
            ],
            dim=1,
        )
        metrics = {f"cosine_{name}": c.mean() for name, c in zip(self.direction_names, cosine, strict=True)}
        if self.config.weighting == "official":
            return official_loss([calibrated(fs[0], i) for i, fs in enumerate(per_layer)], targets), metrics
        if self.log_variance is not None:
            return learned_loss(cosine, self.log_variance), metrics
        weights = self._weights(cosine)
        return torch.stack([direction_loss(c, w) for c, w in zip(cosine, weights, strict=True)]).mean(), metrics

    def _weights(self, cosine: Tensor) -> Tensor:
        """Weights ``(K, L)`` of this step; the adaptive ones follow an exponential mean, kept in the state."""
        config = self.config
        if config.weighting == "uniform":
            return torch.ones_like(cosine)
        if config.weighting == "depth":
            return depth_weights(cosine.shape[1], cosine).expand_as(cosine)
        if not config.detach:
            return torch.stack([rescale(adaptive_weights(c, config.floor, config.clip, False)) for c in cosine])
        if self.training:
            shared = _mean_over_ranks(cosine.detach())
            new = torch.stack([adaptive_weights(c, config.floor, config.clip) for c in shared])
            self.layer_weights.lerp_(new.to(self.layer_weights.dtype), 1 - config.ema)
        return torch.stack([rescale(w) for w in self.layer_weights]).to(cosine.dtype)

    def remaining(self, progress: float) -> float:
        """What ``alpha_decay`` has left of alpha when ``progress`` of the training is done."""
        decay = self.config.alpha_decay
        return min(1.0, (1 - progress) / decay) if decay else 1.0


def _mean_over_ranks(values: Tensor) -> Tensor:
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return values
    values = values.clone()
    distributed.all_reduce(values)
    return values / distributed.get_world_size()
