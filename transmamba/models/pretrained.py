"""Students in a folder: ``config.json`` says what to build, ``model.safetensors`` holds the weights."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

from torch import nn

from transmamba.files import write_atomic
from transmamba.models.registry import create_model

CONFIG, WEIGHTS = "config.json", "model.safetensors"


def save_pretrained(model: nn.Module, folder: str | os.PathLike[str]) -> None:
    """Write ``model`` (made by :func:`transmamba.models.create_model`) so that :func:`load_pretrained` returns it.

    Each file is written under a temporary name and then renamed, weights first: a reader finds the old file or the
    new one, never half of it.

    Raises:
        TypeError: The model does not carry a ``name`` and a dataclass ``config``.
        OSError: The folder cannot be written.
        ImportError: safetensors is not installed.
    """
    safetensors = _safetensors()
    config = getattr(model, "config", None)
    if not isinstance(getattr(model, "name", None), str) or not dataclasses.is_dataclass(config):
        raise TypeError(f"save_pretrained needs a model from create_model, got {type(model).__name__}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors, kept = {}, set()
    for name, tensor in model.state_dict().items():
        # Tied weights are written once; the model that ties them finds the other name itself.
        place = (tensor.data_ptr(), tensor.shape) if tensor.numel() else name
        if place not in kept:
            tensors[name] = tensor.detach().cpu().contiguous()
        kept.add(place)
    write_atomic(folder / WEIGHTS, safetensors.save(tensors, metadata={"format": "pt"}))
    text = json.dumps({"model": model.name, "config": dataclasses.asdict(config)}, indent=2)  # type: ignore[arg-type]
    write_atomic(folder / CONFIG, (text + "\n").encode())


def load_pretrained(folder: str | os.PathLike[str]) -> nn.Module:
    """Return the student saved in ``folder``, in eval mode, on the CPU.

    Raises:
        FileNotFoundError: The folder or one of its two files is missing.
        ValueError: A file is damaged, belongs to something else, or the weights do not fit the config.
        ImportError: safetensors is not installed.
    """
    folder = Path(folder)
    for path in (folder, folder / CONFIG, folder / WEIGHTS):
        if not path.exists():
            raise FileNotFoundError(f"{path} is missing; a saved student is a folder with {CONFIG} and {WEIGHTS}")
    name, config = _read_config(folder / CONFIG)
    try:
        model = create_model(name, **config)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{folder / CONFIG} does not describe a model of this version: {error}") from error
    safetensors = _safetensors()
    try:
        tensors = safetensors.load((folder / WEIGHTS).read_bytes())
    except Exception as error:  # safetensors raises its own type, which differs between versions
        raise ValueError(f"{folder / WEIGHTS} cannot be read as safetensors: {error}") from error
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"{folder / WEIGHTS} does not fit {folder / CONFIG}: {error}") from error
    return model.eval()


def _read_config(path: Path) -> tuple[str, dict[str, Any]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if (
        not isinstance(content, dict)
        or not isinstance(content.get("model"), str)
        or not isinstance(content.get("config"), dict)
    ):
        raise ValueError(f'{path} is not a TransMamba student: it must hold {{"model": name, "config": {{...}}}}')
    return content["model"], content["config"]


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ImportError as error:
        raise ImportError('saving and loading students needs safetensors: pip install "transmamba[adapt]"') from error
    return safetensors.torch
