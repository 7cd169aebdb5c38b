"""Models by name."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable
from typing import Any

from torch import nn

_models: dict[str, tuple[Callable[[Any], nn.Module], Any]] = {}


def register_model(name: str, model: Callable[[Any], nn.Module], config: Any) -> None:
    """Make ``model(config)`` available as ``create_model(name)``.

    Args:
        name: A new name.
        model: Called with one config; the module it returns keeps it as ``.config``.
        config: A dataclass instance, the defaults of this name.

    Raises:
        ValueError: The name is taken.
        TypeError: ``config`` is not a dataclass instance.
    """
    if name in _models:
        raise ValueError(f"a model named {name!r} is registered already")
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        raise TypeError(f"config of {name!r} must be a dataclass instance, got {config!r}")
    _models[name] = (model, config)


def create_model(name: str, **overrides: Any) -> nn.Module:
    """Build a registered model; ``overrides`` replace fields of its config.

    The module carries ``name`` and ``config``, which :func:`transmamba.models.save_pretrained` writes.

    Raises:
        ValueError: Unknown name, or a value that the config refuses.
        TypeError: A field that the config does not have.
    """
    config = model_config(name, **overrides)
    model = _models[name][0](config)
    model.name = name  # type: ignore[assignment]
    return model


def model_config(name: str, **overrides: Any) -> Any:
    """The config that :func:`create_model` builds from, with the same errors."""
    config = default_config(name)
    fields = [f.name for f in dataclasses.fields(config)]
    unknown = sorted(set(overrides) - set(fields))
    if unknown:
        raise TypeError(f"{name} has no option {', '.join(unknown)}; its options are {', '.join(fields)}")
    return dataclasses.replace(config, **overrides)


def default_config(name: str) -> Any:
    """The config of a registered model before any overrides.

    Raises:
        ValueError: Unknown name.
    """
    if name not in _models:
        close = difflib.get_close_matches(str(name), _models, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"unknown model {name!r}{hint} Known: {', '.join(list_models())}")
    return _models[name][1]


def list_models() -> list[str]:
    """Names that :func:`create_model` knows, sorted."""
    return sorted(_models)
