"""Checkpoints that are whole, say what they are, and stages that accept only the right one before them."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import io
import json
import platform
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch

from transmamba import __version__
from transmamba.files import write_atomic, write_json

FORMAT, VERSION = "transmamba-checkpoint", 1
_PACKAGES = ("torch", "numpy", "transformers")


class CheckpointError(ValueError):
    """A checkpoint or manifest is missing, damaged, foreign, or not the one that is needed."""


def save_checkpoint(path: str | Path, state: dict[str, Any]) -> str:
    """Write ``state`` (tensors, numbers, texts, and lists and dicts of them) and return the file's SHA-256.

    It is put together in memory first, so a full disk leaves the old checkpoint as it was.

    Raises:
        OSError: It cannot be written.
    """
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, "version": VERSION, "state": state}, buffer)
    content = buffer.getvalue()
    write_atomic(path, content)
    return hashlib.sha256(content).hexdigest()


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Return the state that :func:`save_checkpoint` wrote, on the CPU. No code in the file is run.

    Raises:
        CheckpointError: It is missing, damaged, foreign, or of another version; the message names the file.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"checkpoint {path} is missing")
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()  # torch.load does not compare the checksums
    except (zipfile.BadZipFile, EOFError, zlib.error, NotImplementedError) as error:
        raise CheckpointError(f"checkpoint {path} is damaged or of another format: {error}") from error
    if broken is not None:
        raise CheckpointError(f"checkpoint {path} is damaged: the checksum of {broken} is wrong")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever the reason, an intact archive that cannot be read is not one of ours
        raise CheckpointError(f"{path} is not a checkpoint of TransMamba: it holds other things than data") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"{path} is not a checkpoint of TransMamba")
    if content.get("version") != VERSION:
        raise CheckpointError(f"{path} has version {content.get('version')}, this package reads version {VERSION}")
    return content["state"]


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a finished stage was made from, kept beside its checkpoint as ``<stage>.json``.

    Attributes:
        stage: Its name.
        checkpoint: SHA-256 of ``<stage>.pt``.
        config: The run's, flat (see :func:`transmamba.config.identity`).
        parent: The stage before, or None.
        parent_checkpoint: SHA-256 of that stage's checkpoint.
        teacher: Hash of the teacher's weights, or None where no teacher takes part.
        versions: Python and packages.
    """

    stage: str
    checkpoint: str
    config: dict[str, Any]
    parent: str | None = None
    parent_checkpoint: str | None = None
    teacher: str | None = None
    versions: dict[str, str] = dataclasses.field(default_factory=dict)

    def write(self, folder: str | Path) -> None:
        """Write it into ``folder``."""
        write_json(Path(folder) / f"{self.stage}.json", {"format": FORMAT, **dataclasses.asdict(self)})


def read_manifest(folder: str | Path, stage: str) -> Manifest | None:
    """Return the manifest of ``stage``, or None while it is not finished.

    Raises:
        CheckpointError: The file is damaged or foreign.
    """
    path = Path(folder) / f"{stage}.json"
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("format") != FORMAT:
            raise ValueError("another format")
        return Manifest(**content)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{path} is not the manifest of a stage: {error}") from error


def require_stage(
    folder: str | Path,
    stage: str,
    *,
    needed_by: str,
    config: dict[str, Any],
    teacher: str | None = None,
    parent: str | None = None,
) -> tuple[Manifest, dict[str, Any]]:
    """Return manifest and state of ``stage``, if it is what ``needed_by`` has to start from.

    Args:
        config, teacher, parent: What the stage must have been made with: the run's flat config, the hash of the
            teacher's weights, the stage before it.

    Raises:
        CheckpointError: The stage is missing or another one; the message names what was expected and what was found.
    """
    path = Path(folder) / f"{stage}.pt"
    manifest = read_manifest(folder, stage)
    start = f"stage {needed_by!r} must start from stage {stage!r}"
    if manifest is None:
        raise CheckpointError(f"{start}, but {path.with_suffix('.json')} is missing: it is not finished")
    found = {
        "stage": (stage, manifest.stage),
        "parent": (parent, manifest.parent),
        "teacher": (teacher, manifest.teacher),
        "checkpoint": (manifest.checkpoint, file_hash(path)),
    }
    for what, (expected, got) in found.items():
        if expected != got:
            raise CheckpointError(f"{start} in {folder}: expected {what} {_short(expected)}, found {_short(got)}")
    for name in config:
        if config[name] != manifest.config.get(name):
            expected, got = config[name], manifest.config.get(name)
            raise CheckpointError(f"{start} in {folder}: expected {name} = {expected!r}, found {got!r}")
    return manifest, load_checkpoint(path)


class Stages:
    """The stages between a teacher and a student in a run's folder, each with a checkpoint and a manifest.

    Args:
        folder: Where they lie.
        config: The run's, flat.
        teacher: Hash of the teacher's weights.
    """

    def __init__(self, folder: Path, config: dict[str, Any], teacher: str):
        self.folder, self.config, self.teacher = folder, config, teacher

    def finished(self, stage: str) -> bool:
        """Whether ``stage`` needs no more work."""
        return read_manifest(self.folder, stage) is not None

    def require(self, stage: str, parent: str, needed_by: str) -> tuple[Manifest, dict[str, Any]]:
        """:func:`require_stage`, made with this config and this teacher."""
        return require_stage(
            self.folder, stage, needed_by=needed_by, config=self.config, teacher=self.teacher, parent=parent
        )

    def finish(self, stage: str, checkpoint: str | None, parent: str, parent_checkpoint: str) -> None:
        """Note that the checkpoint of ``stage`` is its last."""
        manifest = Manifest(stage, checkpoint or "", self.config, parent, parent_checkpoint, self.teacher, versions())
        manifest.write(self.folder)


def trained_weights(state: dict[str, Any]) -> dict[str, Any]:
    """The weights that a stage's state stands for: their running mean, if there is one."""
    return state["model"] if state.get("ema") is None else state["ema"]


def file_hash(path: str | Path) -> str | None:
    """SHA-256 of a file, or None when it is missing."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest() if Path(path).is_file() else None


def versions() -> dict[str, str]:
    """Python and the packages that decide about results."""
    found = {"python": platform.python_version(), "transmamba": __version__}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _short(value: str | None) -> str:
    return "none" if value is None else value[:12]
