"""A visual student that a text takes part in: cross-Mamba layers behind chosen blocks, closed at the start."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from transmamba.layers import CrossMamba, TransMambaBlock
from transmamba.models.registry import create_model, register_model
from transmamba.models.student import Student

if TYPE_CHECKING:
    from transmamba.distill.taps import Taps


@dataclasses.dataclass(frozen=True)
class WithTextConfig:
    """Shape of a :class:`WithText`.

    Attributes:
        student, student_options: Name and options of the visual model, as for :func:`create_model`.
        text, text_options: Those of the text encoder.
        layers: Behind which blocks the text takes part, counted from 0; None for all.
        mode, text_delta: As of :class:`transmamba.layers.CrossMamba`.
        d_state: States per channel of the cross-Mamba layers.
    """

    student: str = "transmamba_vim_micro"
    student_options: dict[str, Any] = dataclasses.field(default_factory=dict)
    text: str = "transmamba_text_micro"
    text_options: dict[str, Any] = dataclasses.field(default_factory=dict)
    layers: tuple[int, ...] | None = None
    mode: str = "query_pool"
    text_delta: bool = False
    d_state: int = 16

    def __post_init__(self) -> None:
        if self.layers is not None:
            object.__setattr__(self, "layers", tuple(self.layers))  # a list when read from JSON


class WithText(nn.Module):
    """A visual student and a text encoder: images and text to ``(batch, num_classes)`` of the student's head.

    Behind each chosen block stands a residual block with a :class:`CrossMamba`, whose gate starts at 0: then the logits
    are the student's, bit for bit. It is hooked onto the student's block while this model runs, so any student can be
    taken, none knows of the text, and ``student`` stays what it was: it runs, saves and is distilled alone.
    """

    def __init__(self, config: WithTextConfig, student: Student | None = None, text: Student | None = None):
        super().__init__()
        self.config = config
        self.name = "with_text"
        self.student: Any = student or create_model(config.student, **config.student_options)
        self.text: Any = text or create_model(config.text, **config.text_options)
        if not isinstance(self.student, Student) or self.student.grid is None:
            raise ValueError(f"student must be a model of images or videos, got {config.student!r}")
        depth = len(self.student.layer_names)
        self.layers = tuple(range(depth)) if config.layers is None else config.layers
        if not self.layers or any(not 0 <= layer < depth for layer in self.layers):
            raise ValueError(f"layers must be some of 0 to {depth - 1}, the blocks of the student, got {self.layers}")
        self.cross = nn.ModuleList(self._cross(self.student.widths[layer]) for layer in self.layers)

    def _cross(self, width: int) -> TransMambaBlock:
        config = self.config
        mixer = CrossMamba(width, self.text.config.d_model, config.mode, config.text_delta, config.d_state)
        return TransMambaBlock(mixer)

    @property
    def head(self) -> nn.Module:
        """The student's, which maps the result of ``forward_features`` to logits."""
        return self.student.head

    def forward(self, images: Tensor, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the logits ``(batch, num_classes)``."""
        return self.head(self.forward_features(images, ids, mask))

    def forward_features(
        self, images: Tensor, ids: Tensor, mask: Tensor | None = None, taps: Taps | None = None
    ) -> Tensor:
        """Return the feature under the head.

        Args:
            images: As the student takes them.
            ids: ``(batch, words)``, int64.
            mask: ``(batch, words)`` of bool, False for padding.
            taps: Receives the outputs of the student's blocks, each with what the text added.
        """
        tokens = self.text.forward_features(ids, attention_mask=mask)
        with contextlib.ExitStack() as hooks:
            for layer, cross in zip(self.layers, self.cross, strict=True):
                block = self.student.get_submodule(self.student.layer_names[layer])
                hook = functools.partial(_ask, cross, tokens, mask)
                hooks.enter_context(block.register_forward_hook(hook))
            return self.student.forward_features(images, taps)


def with_text(student: Student, text: Student, mode: str = "query_pool", **options: Any) -> WithText:
    """Let a text take part in ``student``, which keeps its weights and, until it is trained further, its outputs.

    Args:
        student: A visual model from :func:`create_model` or :func:`load_pretrained`; it is used, not copied.
        text: A text encoder from there, whose first result are the features of the tokens.
        mode, options: Other fields of :class:`WithTextConfig`.

    Raises:
        ValueError: An option is out of range; the message says which and what is allowed.
    """
    student_options, text_options = (dataclasses.asdict(model.config) for model in (student, text))
    config = WithTextConfig(student.name, student_options, text.name, text_options, mode=mode, **options)
    return WithText(config, student, text)


def _ask(cross: nn.Module, tokens: Tensor, mask: Tensor | None, _block: nn.Module, _input: Any, output: Any) -> Any:
    """The output of a block, and of each of its directions if it has them, with what the text adds."""
    if isinstance(output, Tensor):
        return cross(output, text=tokens, mask=mask)
    x, directions = output
    y = cross(x, text=tokens, mask=mask)
    return y, [feature + (y - x) for feature in directions]


register_model("with_text", WithText, WithTextConfig())
