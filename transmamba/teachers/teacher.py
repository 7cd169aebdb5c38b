"""A frozen Transformer that shows its features."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from transmamba.teachers.spec import KNOWN, TeacherSpec, find


@dataclasses.dataclass
class TeacherOutput:
    """What a teacher says about a batch.

    Attributes:
        logits: ``(batch, num_classes)``.
        features: After each layer, ``(batch, L, d_model)``: patches in raster order, special tokens dropped.
        grid: ``(h, w)`` with ``h * w = L``, or ``(frames, h, w)`` of a video.
    """

    logits: Tensor
    features: list[Tensor]
    grid: tuple[int, ...]


class Teacher(nn.Module):
    """An image classifier of transformers, always in eval mode and without gradients when called through here.

    Attributes:
        model: The wrapped module, to be trained or saved on its own.
        spec: The :class:`TeacherSpec` that fits it.
        d_model, depth, num_classes, grid: Width, layers, classes, patches per column and row.
        d_hidden: Hidden units of its MLPs.

    Raises:
        TypeError: ``model`` is not a module.
        ValueError: No known naming fits; the message lists what each one misses.
    """

    def __init__(self, model: nn.Module, spec: TeacherSpec | None = None):
        super().__init__()
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch module, got {type(model).__name__}")
        self.spec = _matching_spec(model) if spec is None else spec
        if missing := self.spec.missing(model):
            raise ValueError(f"{type(model).__name__} does not have {', '.join(missing)}, named by {self.spec.name}")
        self.model = model
        self.depth = len(self.part("layers"))
        self.d_model = self.part("patch").out_channels
        self.d_hidden = self.part("fc1", 0).out_features
        self.num_classes = getattr(self.part("head"), "out_features", 0)
        patch = self.part("patch")
        height, width = _pair(model.config.image_size)  # type: ignore[union-attr]
        self.grid = (
            (height - patch.kernel_size[0]) // patch.stride[0] + 1,
            (width - patch.kernel_size[1]) // patch.stride[1] + 1,
        )
        self.eval()

    def part(self, name: str, layer: int | None = None) -> Any:
        """The module or tensor that the spec calls ``name``, of ``layer`` where it has one."""
        path = getattr(self.spec, name).format(i=layer)
        found = find(self.model, path)
        if found is None:
            raise ValueError(f"{type(self.model).__name__} has no {path} ({name} of layer {layer})")
        return found

    def train(self, mode: bool = True) -> Teacher:
        """Stay in eval mode: a teacher with dropout would teach noise. Train ``teacher.model`` itself."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> TeacherOutput:
        """Logits and features of ``images`` ``(batch, channels, H, W)``.

        A video ``(batch, channels, frames, H, W)`` is looked at frame by frame: the features are those of all frames
        one after the other, the logits their mean.
        """
        self.eval()
        if images.dim() == 5:
            frames = images.shape[2]
            each = self(images.transpose(1, 2).flatten(0, 1))
            features = [f.unflatten(0, (-1, frames)).flatten(1, 2) for f in each.features]
            return TeacherOutput(each.logits.unflatten(0, (-1, frames)).mean(1), features, (frames, *each.grid))
        with self._taps() as features:
            logits = self.model(pixel_values=images).logits
        return TeacherOutput(logits, [f[:, self.spec.special_tokens :] for f in features], self.grid)

    @contextmanager
    def _taps(self) -> Iterator[list[Tensor]]:
        """Collect every block's output; the hooks return nothing, so they change nothing, and are gone afterwards."""
        features: list[Tensor] = []

        def keep(_module: nn.Module, _args: Any, output: Any) -> None:
            features.append(output[0] if isinstance(output, tuple) else output)

        hooks = [layer.register_forward_hook(keep) for layer in self.part("layers")]
        try:
            yield features
        finally:
            for hook in hooks:
                hook.remove()

    def weights_hash(self) -> str:
        """SHA-256 of names, dtypes, shapes and bytes of the weights: the same weights always give the same text."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


def create_teacher(source: Any) -> Teacher:
    """Wrap a ViT or DeiT image classifier of transformers.

    Args:
        source: The model itself, a ``ViTConfig`` or ``DeiTConfig`` (random weights), or the folder or hub name of a
            saved one.

    Raises:
        TypeError: ``source`` is none of these.
        ValueError: The model is of another family, or the folder holds something else.
        FileNotFoundError: The folder does not exist.
        ImportError: transformers is needed and not installed.
    """
    if isinstance(source, Teacher):
        return source
    if isinstance(source, nn.Module):
        return Teacher(source)
    if isinstance(source, (str, os.PathLike)):
        return Teacher(_load(source))
    transformers = _transformers()
    if isinstance(source, transformers.PretrainedConfig):
        classes = {"vit": "ViTForImageClassification", "deit": "DeiTForImageClassification"}
        if source.model_type not in classes:
            raise ValueError(f"a teacher's config must be of type {' or '.join(classes)}, got {source.model_type!r}")
        return Teacher(getattr(transformers, classes[source.model_type])(source))
    raise TypeError(f"a teacher is made from a model, a config or a path, got {type(source).__name__}")


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Silence the bars that transformers draws while it reads or writes a few files."""
    logging = _transformers().utils.logging
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _load(source: str | os.PathLike[str]) -> nn.Module:
    path = Path(source)
    if not path.exists() and (isinstance(source, os.PathLike) or path.is_absolute() or source.count("/") != 1):
        raise FileNotFoundError(f"teacher {str(source)!r}: no such folder, and not a hub name like 'owner/model'")
    if path.exists() and not (path / "config.json").is_file():
        raise ValueError(f"teacher {path}: no config.json there; a saved transformers model is a folder with one")
    transformers = _transformers()
    try:
        with no_progress_bars():
            config = transformers.AutoConfig.from_pretrained(source)
            named = (config.architectures or ["AutoModelForImageClassification"])[0]
            # The Auto class would drop the second head of a distilled DeiT.
            chosen = named if named.startswith("DeiTForImageClassification") else "AutoModelForImageClassification"
            return getattr(transformers, chosen).from_pretrained(source)
    except Exception as error:  # transformers raises many types here; each means that this is no usable teacher
        raise ValueError(f"teacher {str(source)!r} cannot be loaded by transformers: {error}") from error


def _matching_spec(model: nn.Module) -> TeacherSpec:
    reasons = []
    for spec in KNOWN:
        missing = spec.missing(model)
        if not missing:
            return spec
        reasons.append(f"{spec.name}: no {', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}")
    raise ValueError(f"{type(model).__name__} is no ViT or DeiT classifier known here.\n  " + "\n  ".join(reasons))


def _pair(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise ImportError('teachers need transformers: pip install "transmamba[adapt]"') from error
    return transformers
