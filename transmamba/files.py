"""Files that are there whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from transmamba.processes import one_writer


def write_atomic(path: str | os.PathLike[str], content: bytes) -> None:
    """Write ``content`` under a temporary name, then rename: a reader finds the old file or the new one.

    Of several processes that train together one writes; see :func:`transmamba.processes.one_writer`.

    Raises:
        OSError: The folder cannot be written or the disk is full. Nothing is left behind, and a file that was there
            before is as it was.
    """
    with one_writer() as writes:
        if writes:
            _write_atomic(Path(path), content)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """:func:`write_atomic` for text, in UTF-8."""
    write_atomic(path, text.encode())


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """:func:`write_atomic` for JSON, indented, in UTF-8."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def _write_atomic(path: Path, content: bytes) -> None:
    temporary: str | None = None
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError):
            kept = "; the file that was there is as it was" if path.exists() else ""
            raise OSError(error.errno, f"cannot write {path}: {error.strerror or error}{kept}") from error
        raise
