"""Losses of the distillation: pure functions of tensors, computed in float32 at least."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

WEIGHTINGS = ("adaptive", "uniform", "depth", "learned", "official")


def mean_cosine(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over batch and tokens of the cosine between features ``(batch, L, d)``; a scalar in [-1, 1]."""
    # In 16 bits a cosine near 1 would have no digits left behind 1 - c.
    return F.cosine_similarity(_wide(student), _wide(teacher), dim=-1).mean()


def adaptive_weights(
    cosine: Tensor, floor: float = 0.05, clip: tuple[float, float] = (0.2, 5.0), detach: bool = True
) -> Tensor:
    r"""Weigh a layer by how far its feature lies from the teacher's: dissimilar layers weigh more.

    .. math:: w_i = \mathrm{sg}\Big(\mathrm{clip}\Big(\frac{\bar c}{\max(c_i, \mathrm{floor})}, lo, hi\Big)\Big),
        \qquad \bar c = \tfrac{1}{L} \sum_j c_j

    After the adaptive bidirectional loss of TransMamba (https://arxiv.org/abs/2502.15130), whose weight is
    :math:`\sum_j c_j / c_i`. Stop-gradient and clipping are needed: with gradients through :math:`w_i` the best aligned
    layers are pushed away, and a negative cosine turns the sign of the loss.

    Args:
        cosine: Mean cosine per layer, ``(L,)``.
        detach: False leaves the gradient in, for the ablation.

    Returns:
        ``(L,)``, not yet rescaled (see :func:`rescale`).
    """
    c = cosine.detach() if detach else cosine
    return (c.mean() / c.clamp(min=floor)).clamp(*clip)


def rescale(weights: Tensor) -> Tensor:
    """Scale weights ``(L,)`` to mean 1, so that they move effort between layers and leave the size of the loss."""
    return weights / weights.mean()


def depth_weights(depth: int, like: Tensor) -> Tensor:
    """Weights growing with the layer, ``i + 1``, scaled to mean 1; dtype and device of ``like``."""
    return rescale(torch.arange(1, depth + 1, dtype=like.dtype, device=like.device))


def direction_loss(cosine: Tensor, weights: Tensor) -> Tensor:
    r"""Loss of one scan direction over all layers, a scalar.

    .. math:: \mathrm{AdaMAD}_k = \frac{1}{L} \sum_i w_k^i (1 - c_k^i)

    Args:
        cosine: Mean cosine per layer, ``(L,)``.
        weights: Weight per layer, ``(L,)``.
    """
    if cosine.shape != weights.shape:
        raise ValueError(f"cosine and weights must have one shape, got {tuple(cosine.shape)}, {tuple(weights.shape)}")
    return (weights * (1 - cosine)).mean()


def learned_loss(cosine: Tensor, log_variance: Tensor) -> Tensor:
    r"""Loss of all layers with weights that are learned beside the student, a scalar.

    .. math:: \frac{1}{L} \sum_i \frac{w_i (1 - c_i) + s_i}{\mathrm{sg}(\bar w)}, \qquad w_i = e^{-s_i}

    Kendall et al. (https://arxiv.org/abs/1705.07115), eq. 10: the least loss has :math:`w_i = 1 / (1 - c_i)`, so layers
    that agree more weigh more, unlike with :func:`adaptive_weights`. Divided by the mean weight :math:`\bar w`, so that
    the weights move effort between layers and leave its amount; the term in ``s`` has no limit below.

    Args:
        cosine: Mean cosine per layer, ``(L,)``, or per direction and layer, ``(K, L)``.
        log_variance: :math:`s`, of the same shape.
    """
    weights = torch.exp(-log_variance)
    each = (weights * (1 - cosine) + log_variance) / weights.mean(-1, keepdim=True).detach()
    return each.mean()


def task_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy, mean over the batch, of a text over its tokens.

    Args:
        logits: ``(batch, classes)``, of a text ``(batch, L, classes)``.
        labels: Class indices ``(batch,)`` or probabilities ``(batch, classes)``; of a text ``(batch, L)``, -100 where
            there is none.
    """
    return F.cross_entropy(_wide(logits.flatten(0, -2)), labels.flatten() if logits.dim() == 3 else labels)


def kd_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 2.0) -> Tensor:
    r"""Distillation of the logits, mean over the batch.

    .. math:: T^2\, \mathrm{KL}(\mathrm{softmax}(z_T / T) \,\|\, \mathrm{softmax}(z_S / T))

    Section 2 of Hinton et al. (https://arxiv.org/abs/1503.02531). No gradient reaches the teacher.

    Args:
        student_logits, teacher_logits: ``(batch, classes)``.
    """
    if student_logits.shape != teacher_logits.shape:
        raise ValueError(
            f"logits must have one shape, got student {tuple(student_logits.shape)} and "
            f"teacher {tuple(teacher_logits.shape)}"
        )
    student = F.log_softmax(_wide(student_logits) / temperature, dim=-1)
    teacher = F.log_softmax(_wide(teacher_logits.detach()) / temperature, dim=-1)
    return temperature**2 * F.kl_div(student, teacher, log_target=True, reduction="batchmean")


def contrastive_loss(similarity: Tensor) -> Tensor:
    r"""Symmetric contrastive loss (InfoNCE) of a batch of pairs, a scalar.

    .. math:: -\frac{1}{2n} \sum_i \Big(\log \frac{e^{s_{ii}}}{\sum_j e^{s_{ij}}}
        + \log \frac{e^{s_{ii}}}{\sum_j e^{s_{ji}}}\Big)

    Figure 3 of Radford et al., "CLIP" (https://arxiv.org/abs/2103.00020), after van den Oord et al.
    (https://arxiv.org/abs/1807.03748), eq. 4.

    Args:
        similarity: Of every text to every video, already divided by the temperature, ``(n, n)``; pairs stand on the
            diagonal.
    """
    if similarity.dim() != 2 or similarity.shape[0] != similarity.shape[1]:
        raise ValueError(f"similarity must be square, got {tuple(similarity.shape)}")
    wide = _wide(similarity)
    pairs = torch.arange(len(wide), device=wide.device)
    return (F.cross_entropy(wide, pairs) + F.cross_entropy(wide.t(), pairs)) / 2


def similarity_loss(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Distillation of the similarities of a batch of pairs, from text to video and from video to text, a scalar.

    .. math:: \tfrac{1}{2} \big(\mathrm{KL}(p_T \| p_S) + \mathrm{KL}(q_T \| q_S)\big)

    with the softmax ``p`` over the rows and ``q`` over the columns: affinity mimicking, eq. 3 of Wu et al., "TinyCLIP"
    (https://arxiv.org/abs/2309.12314). No gradient reaches the teacher.

    Args:
        student, teacher: Similarities, each divided by its own temperature, ``(n, n)``.
    """
    return (kd_loss(student, teacher, 1.0) + kd_loss(student.t(), teacher.t(), 1.0)) / 2


def channel_cross_entropy(student: Tensor, teacher: Tensor, temperature: float = 2.0) -> Tensor:
    r"""Soft cross-entropy over feature channels, mean over batch and tokens.

    .. math:: H(f_T, f_S) = -\sum_c \mathrm{softmax}(f_T / T)_c \log \mathrm{softmax}(f_S / T)_c
    """
    target = F.softmax(_wide(teacher.detach()) / temperature, dim=-1)
    return -(target * F.log_softmax(_wide(student) / temperature, dim=-1)).sum(-1).mean()


def official_loss(features: list[Tensor], teacher: Tensor | list[Tensor], temperature: float = 2.0) -> Tensor:
    r"""Feature loss of the code released with TransMamba, for comparison.

    .. math:: 120\, H(f_T, f_S^{L}) + \sum_{i=1}^{L} i\, H(f_T, f_S^i)

    with :func:`channel_cross_entropy` as ``H`` and every layer held against the teacher's last feature.

    Args:
        features: Student features in order, each ``(batch, L, d)``.
        teacher: The teacher's last feature, ``(batch, L, d)``, or as each layer sees it, resampled and padded.
    """
    targets = [teacher] * len(features) if isinstance(teacher, Tensor) else teacher
    losses = [channel_cross_entropy(f, target, temperature) for f, target in zip(features, targets, strict=True)]
    return 120 * losses[-1] + sum(i * loss for i, loss in enumerate(losses, start=1))


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
