"""A frozen Transformer that shows its features."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Iterator, Mapping
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
        logits: ``(batch, num_classes)``, of a text ``(batch, L, num_classes)``, or None of a model without a head.
        features: After each layer, ``(batch, L, d_model)``: patches in raster order, special tokens dropped.
        grid: ``(h, w)`` with ``h * w = L``, or ``(frames, h, w)`` of a video, or None of a text.
    """

    logits: Tensor | None
    features: list[Tensor]
    grid: tuple[int, ...] | None


class Teacher(nn.Module):
    """A Transformer for images or text, always in eval mode and without gradients when called through here.

    Attributes:
        model: The wrapped module, to be trained or saved on its own.
        spec: The :class:`TeacherSpec` that fits it.
        d_model, depth: Width and layers.
        num_classes: Classes, or tokens of the vocabulary; 0 without a head.
        grid: Patches per column and row, or None of a text.
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
        self.depth = len(find(model, self.spec.layers))  # type: ignore[arg-type]
        self.d_model = self.part("fc2", 0).out_features
        self.d_hidden = self.part("fc1", 0).out_features
        self.num_classes = getattr(self.part("head"), "out_features", 0) if self.spec.head else 0
        self.grid: tuple[int, int] | None = None
        if self.spec.patch:
            patch = self.part("patch")
            height, width = _pair(model.config.image_size)  # type: ignore[union-attr]
            self.grid = (
                (height - patch.kernel_size[0]) // patch.stride[0] + 1,
                (width - patch.kernel_size[1]) // patch.stride[1] + 1,
            )
        self.eval()

    def path(self, name: str, layer: int | None = None) -> str:
        """Dotted path of the part that the spec calls ``name``, of ``layer`` where it has one."""
        return getattr(self.spec, name).format(i=layer, last=self.depth - 1)

    def part(self, name: str, layer: int | None = None) -> Any:
        """The module or tensor that the spec calls ``name``, of ``layer`` where it has one.

        Position embedding and class token are ``(1, tokens, d)``, however the model keeps them.
        """
        path = self.path(name, layer)
        found = find(self.model, path)
        if found is None:
            raise ValueError(f"{type(self.model).__name__} has no {path} ({name} of layer {layer})")
        if name in ("position", "class_token"):
            table: Any = found if isinstance(found, Tensor) else found.weight
            return table.reshape(1, -1, table.shape[-1])
        return found

    def train(self, mode: bool = True) -> Teacher:
        """Stay in eval mode: a teacher with dropout would teach noise. Train ``teacher.model`` itself."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor | Mapping[str, Tensor], attention_mask: Tensor | None = None) -> TeacherOutput:
        """Logits and features of ``images`` ``(batch, channels, H, W)``, or of token ids ``(batch, length)``.

        ``attention_mask`` ``(batch, length)`` is 0 or False where a token is padding; what is said there means nothing.
        A video ``(batch, channels, frames, H, W)`` is looked at frame by frame: the features are those of all frames
        one after the other, the logits their mean. A mapping holds the model's arguments by name, such as a LLaVA's
        ``input_ids`` and ``pixel_values``.
        """
        self.eval()
        arguments = images if isinstance(images, Mapping) else {self.spec.inputs: images}
        if isinstance(images, Tensor) and images.dim() == 5:
            frames = images.shape[2]
            each = self(images.transpose(1, 2).flatten(0, 1))
            features = [f.unflatten(0, (-1, frames)).flatten(1, 2) for f in each.features]
            logits = None if each.logits is None else each.logits.unflatten(0, (-1, frames)).mean(1)
            return TeacherOutput(logits, features, (frames, *each.grid))
        with self.taps() as features:
            masked = {} if attention_mask is None else {"attention_mask": attention_mask}
            logits = getattr(self.model(**arguments, **masked), "logits", None)
        return TeacherOutput(logits, [f[:, self.spec.special_tokens :] for f in features], self.grid)

    @contextmanager
    def taps(self) -> Iterator[list[Tensor]]:
        """Collect every block's output, special tokens included, while the model is called.

        The hooks return nothing, so they change nothing, and are gone afterwards.
        """
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


# Class of transformers for each type of config; a folder's own choice among the last ones of a type is followed.
_CLASSES = {
    "vit": ("ViTForImageClassification",),
    "deit": ("DeiTForImageClassification", "DeiTForImageClassificationWithTeacher"),
    "clip": ("CLIPVisionModel", "CLIPVisionModelWithProjection", "CLIPTextModel", "CLIPTextModelWithProjection"),
    "clip_vision_model": ("CLIPVisionModel", "CLIPVisionModelWithProjection"),
    "clip_text_model": ("CLIPTextModel", "CLIPTextModelWithProjection"),
    "siglip_vision_model": ("SiglipVisionModel",),
    "llama": ("LlamaForCausalLM",),
    "llava": ("LlavaForConditionalGeneration",),
    "bert": ("BertModel", "BertForMaskedLM"),
}


def create_teacher(source: Any, spec: TeacherSpec | None = None) -> Teacher:
    """Wrap a Transformer: ViT or DeiT classifier, CLIP's or SigLIP's tower, Llama, LLaVA, BERT, or another with a spec.

    Args:
        source: The model itself, its config of transformers (random weights), or the folder or hub name of a saved one;
            of a whole CLIP the vision tower is read.
        spec: Where the model keeps its parts, for a family that is not known here.

    Raises:
        TypeError: ``source`` is none of these.
        ValueError: The model is of another family, or the folder holds something else.
        FileNotFoundError: The folder does not exist.
        ImportError: transformers is needed and not installed.
    """
    if isinstance(source, Teacher):
        return source
    if isinstance(source, nn.Module):
        return Teacher(source, spec)
    if isinstance(source, (str, os.PathLike)):
        return Teacher(load_model(source, _CLASSES), spec)
    transformers = import_transformers()
    if isinstance(source, transformers.PretrainedConfig):
        if source.model_type not in _CLASSES:
            raise ValueError(f"a teacher's config must be of type {', '.join(_CLASSES)}, got {source.model_type!r}")
        config = source.vision_config if source.model_type == "clip" else source
        return Teacher(getattr(transformers, _CLASSES[source.model_type][0])(config), spec)
    raise TypeError(f"a teacher is made from a model, a config or a path, got {type(source).__name__}")


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Silence the bars that transformers draws while it reads or writes a few files."""
    logging = import_transformers().utils.logging
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def load_model(source: str | os.PathLike[str], known: dict[str, tuple[str, ...]]) -> nn.Module:
    """Load a saved model of transformers, as the class that ``known`` names for its type of config.

    Raises:
        FileNotFoundError, ValueError, ImportError: As of :func:`create_teacher`.
    """
    path = Path(source)
    if not path.exists() and (isinstance(source, os.PathLike) or path.is_absolute() or source.count("/") != 1):
        raise FileNotFoundError(f"teacher {str(source)!r}: no such folder, and not a hub name like 'owner/model'")
    if path.exists() and not (path / "config.json").is_file():
        raise ValueError(f"teacher {path}: no config.json there; a saved transformers model is a folder with one")
    transformers = import_transformers()
    try:
        with no_progress_bars():
            config = transformers.AutoConfig.from_pretrained(source)
            # Other types: what a user's own spec fits. The Auto class would drop the second head of a distilled DeiT.
            classes = known.get(config.model_type, ("AutoModel",))
            named = (config.architectures or classes)[0]
            return getattr(transformers, named if named in classes else classes[0]).from_pretrained(source)
    except Exception as error:  # transformers raises many types here; each means that this is no usable teacher
        raise ValueError(f"teacher {str(source)!r} cannot be loaded by transformers: {error}") from error


def _matching_spec(model: nn.Module) -> TeacherSpec:
    reasons = []
    for spec in KNOWN:
        missing = spec.missing(model)
        if not missing:
            return spec
        reasons.append(f"{spec.name}: no {', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}")
    raise ValueError(
        f"{type(model).__name__} has the names of no Transformer known here; give a TeacherSpec.\n  "
        + "\n  ".join(reasons)
    )


def _pair(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def import_transformers() -> Any:
    """The package, or an ImportError that says how to get it."""
    try:
        import transformers
    except ImportError as error:
        raise ImportError('teachers need transformers: pip install "transmamba[adapt]"') from error
    return transformers
