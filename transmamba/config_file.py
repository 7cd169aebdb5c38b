"""Options from a YAML or JSON file."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from transmamba.config import RunConfig, hint


def read_config(path: str | Path, options: Any = None) -> dict[str, Any]:
    """Read a config file, YAML or JSON: a mapping like the fields of ``options``, and ``preset`` if wanted.

    ``options`` is a dataclass instance, a :class:`RunConfig` if not given.

    Raises:
        FileNotFoundError: It is missing.
        ValueError: It is not valid, or has keys that no option has; the message offers the closest one.
        ImportError: It is YAML, and PyYAML is not installed.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"config file {path} is missing")
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix == ".json" else _yaml().safe_load(text)
    except ImportError:
        raise
    except Exception as error:  # each parser raises its own types, and all mean the same
        raise ValueError(f"config file {path} cannot be read: {' '.join(str(error).split())}") from error
    content = {} if content is None else content
    if not isinstance(content, dict):
        raise ValueError(f"config file {path} must hold a mapping of options, got {type(content).__name__}")
    _check_keys({k: v for k, v in content.items() if k != "preset"}, options or RunConfig(), str(path))
    return content


def _check_keys(content: dict[str, Any], config: Any, path: str, prefix: str = "") -> None:
    fields = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    for key, value in content.items():
        if key not in fields:
            raise ValueError(f"{path}: unknown option {prefix + str(key)!r}{hint(str(key), fields, prefix)}")
        if dataclasses.is_dataclass(fields[key]):
            if not isinstance(value, dict):
                raise ValueError(f"{path}: {prefix + key} must be a mapping of options, got {value!r}")
            _check_keys(value, fields[key], path, f"{prefix}{key}.")


def _yaml() -> Any:
    try:
        import yaml
    except ImportError as error:
        raise ImportError('YAML needs PyYAML: pip install "transmamba[adapt]", or write the config as JSON') from error
    return yaml
