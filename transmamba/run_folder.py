"""The folder of a run: what lies in it, whose it is, and whether the run is finished."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from transmamba.config import differences, identity, to_dict
from transmamba.files import write_json
from transmamba.processes import one_writer

RUN_FORMAT, METRICS_FORMAT = "transmamba-run", "transmamba-metrics"
STAGES, STUDENT, TENSORBOARD = "stages", "student", "tensorboard"
RUN, METRICS, REPORT, CURVES, SUBCLONE = "run.json", "metrics.json", "report.md", "curves.png", "subclone.md"
PICTURES, FRAMES, TOKENIZER = "answers.png", "frames.png", "tokenizer.json"


def claim(config: Any, overwrite: bool) -> dict[str, Any] | None:
    """Make the folder of ``config`` this run's; return its metrics if the run is finished, else None.

    Args:
        config: A :class:`transmamba.config.RunConfig`, or another command's with a ``folder``.
        overwrite: Remove what an earlier run left there.

    Raises:
        FileExistsError: It holds a run with other options, or something else; the message says what differs.
    """
    folder, whole = config.folder, to_dict(config)
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file; give another --out-dir")
    if folder.exists() and any(folder.iterdir()):
        found = _read_json(folder / RUN)
        if found.get("format") != RUN_FORMAT:
            raise FileExistsError(f"{folder} holds something that is no run of transmamba; give another --out-dir")
        if overwrite:
            with one_writer() as writes:
                if writes:
                    _remove_run(folder)
        elif differs := differences(identity(found.get("config") or {}), identity(whole)):
            raise FileExistsError(
                f"{folder} holds a run with other options: {'; '.join(differs)}. "
                "Give another --out-dir, or --overwrite to replace it"
            )
    with one_writer() as writes:
        if writes:
            (folder / STAGES).mkdir(parents=True, exist_ok=True)
    write_json(folder / RUN, {"format": RUN_FORMAT, "config": whole})
    metrics = _read_json(folder / METRICS)
    return metrics if metrics.get("format") == METRICS_FORMAT else None


def read_run(folder: str | Path) -> dict[str, Any]:
    """The options of the run in ``folder``.

    Raises:
        FileNotFoundError: It holds none.
    """
    found = _read_json(Path(folder) / RUN)
    if found.get("format") != RUN_FORMAT:
        raise FileNotFoundError(f"{folder} holds no run of transmamba: there is no {RUN}")
    return found["config"]


def student_folder(folder: str | Path) -> Path:
    """Where a saved student lies: the folder itself, or that of a run's student within it."""
    inner = Path(folder) / STUDENT
    return inner if inner.is_dir() else Path(folder)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _remove_run(folder: Path) -> None:
    """Remove what a run writes, and nothing else that may lie there."""
    for name in (STAGES, STUDENT, TENSORBOARD):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in (METRICS, REPORT, CURVES, SUBCLONE, RUN, PICTURES, FRAMES, TOKENIZER):
        (folder / name).unlink(missing_ok=True)
