"""Stage 1b: fill what a student has in common with a Transformer from that Transformer's weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from transmamba.distill.attention_start import MIXERS, check_mixers
from transmamba.distill.batches import first_and_all
from transmamba.distill.cloner import Cloner
from transmamba.distill.donor import take_scans
from transmamba.distill.importance import IMPORTANCES
from transmamba.distill.report import SubcloneReport, SubcloneRow
from transmamba.teachers import Teacher


@dataclasses.dataclass(frozen=True)
class SubcloneConfig:
    """Choices of the subcloning.

    Attributes:
        layer_map: As in :func:`transmamba.distill.layer_map`.
        early: Clone only the first so many student layers; None for two thirds of them, rounded up.
        importance: As in :func:`transmamba.distill.importance.measure_importance`.
        mixer: ``"none"``: the SSM keeps its own initialisation. ``"vo"``: it starts as an attention with the teacher's
            values and output projection, ``"qkvo"``: and its queries and keys (see
            :mod:`transmamba.distill.attention_start`).
        ssm_from: Folder of a student saved by :func:`transmamba.models.save_pretrained` that gives what a Transformer
            does not have: A, D, step size, convolution and gate.
        mixer_scale: Scale each mixer's output projection so that the mixer varies as much as the teacher's attention
            on ``images`` (see :mod:`transmamba.distill.mixer_scale`); without images it is left, as the report says.
        weights: False copies nothing of what the two have in common; for the ablation only.
    """

    layer_map: str | Sequence[int] = "uniform"
    early: int | None = None
    importance: str = "activation"
    mixer: str = "none"
    ssm_from: str | None = None
    mixer_scale: bool = True
    weights: bool = True

    def __post_init__(self) -> None:
        if self.importance not in IMPORTANCES:
            raise ValueError(f"importance must be one of {', '.join(IMPORTANCES)}, got {self.importance!r}")
        if self.mixer not in MIXERS:
            raise ValueError(f"mixer must be one of {', '.join(MIXERS)}, got {self.mixer!r}")
        if self.early is not None and (isinstance(self.early, bool) or not isinstance(self.early, int)):
            raise TypeError(f"early must be None or an int, got {self.early!r}")
        if self.early is not None and self.early < 0:
            raise ValueError(f"early must be at least 0, got {self.early}")


@torch.no_grad()
def subclone(
    student: nn.Module,
    teacher: Teacher,
    config: SubcloneConfig | None = None,
    images: Iterable[Tensor] | None = None,
    pretrained: Teacher | None = None,
) -> SubcloneReport:
    r"""Copy the teacher's MLPs, norms, embeddings and head into ``student``, in place.

    .. math:: W_S = \sqrt{n_{in}^T / n_{in}^S}\; W_T[I_{out}, I_{in}]

    Samragh et al., "Weight subcloning" (https://arxiv.org/abs/2312.09299), eq. 1 and 2, applied to everything outside
    the SSM as in TransMamba (https://arxiv.org/abs/2502.15130), and to the mixers where ``mixer`` says so. One index
    set serves the whole residual stream, one per layer the MLP's hidden units; a student whose layers differ in width
    has one of the former for each width. Biases and norms are only indexed, position embeddings are interpolated to the
    student's grid, patch kernels are resampled. With equal shapes every copy is exact. Where the student is the wider
    one, the teacher's values go into the middle channels and the others keep their initialisation.

    Args:
        student: A model with ``clone_roles``, such as :class:`transmamba.models.Vim`.
        teacher: The Transformer.
        config: A :class:`SubcloneConfig`.
        images: Batches ``(batch, channels, H, W)``, or of token ids ``(batch, length)``, needed for
            ``importance="activation"`` when something must be left out, for ``mixer_scale``, and for ``mixer`` of a
            language model, which starts with their length; a few hundred images are plenty.
        pretrained: The teacher before fine-tuning, for ``importance="stability"``.

    Returns:
        A report with one row per student tensor. Nothing is written when an error is raised.
    """
    config = SubcloneConfig() if config is None else config
    if not isinstance(teacher, Teacher):
        raise TypeError(f"teacher must come from create_teacher, got {type(teacher).__name__}")
    if not hasattr(student, "clone_roles"):
        raise TypeError(f"student must tell its clone_roles, as transmamba.models do; got {type(student).__name__}")
    check_mixers(student, config.mixer)
    first, images = first_and_all(images)
    cloner = Cloner(student, teacher, config, images, pretrained)
    rows: dict[str, SubcloneRow] = {}
    values: dict[str, Tensor] = {}
    parameters = dict(student.named_parameters())
    for name, role in student.clone_roles().items():  # type: ignore[operator]
        rows[name], value = cloner.clone(name, parameters[name], role)
        if value is not None:
            values[name] = value
    if config.mixer != "none":
        cloner.start_mixers(config.mixer, first, rows, values)
    if config.ssm_from is not None:
        take_scans(student, config.ssm_from, rows, values)
    if config.mixer_scale:
        cloner.scale_mixers(first, parameters, rows, values)
    for name, value in values.items():
        parameters[name].copy_(value)
    used = {source for row in rows.values() for source in (row.source or "").split(" + ")}
    return SubcloneReport(
        rows=list(rows.values()),
        channels=cloner.channels,
        hidden={layer: axis.indices for layer, axis in cloner.hidden.items()},
        layer_map=cloner.layers,
        early=cloner.early,
        settings=dataclasses.asdict(config),
        unused=[name for name, _ in teacher.model.named_parameters() if name not in used],
    )
