"""Videos with captions: the published layouts of MSR-VTT and DiDeMo, and tables of one's own."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from transmamba.tasks.video import SUFFIXES

SPLITS = ("train", "test")


@dataclasses.dataclass(frozen=True)
class Captions:
    """One split of a data set.

    Attributes:
        videos: Its files.
        texts: Its captions; a video may have several.
        video_of_text: For each caption the index of its video.
        missing: Videos that have captions and no file, by name.
    """

    videos: list[Path]
    texts: list[str]
    video_of_text: list[int]
    missing: list[str]


def load_captions(layout: str, folder: str | Path) -> dict[str, Captions]:
    """Read the captions of both :data:`SPLITS`, and find the videos below ``folder`` by their names.

    Args:
        layout: One of :data:`LAYOUTS`: ``"msr-vtt"`` (``MSRVTT_data.json``, ``MSRVTT_train.9k.csv`` or ``.7k.csv``, and
            ``MSRVTT_JSFUSION_test.csv``), ``"didemo"`` (``train_data.json``, ``test_data.json``, and the lists
            ``train_list.txt`` and ``test_list.txt`` where they are), or ``"table"`` (``train.csv`` and ``test.csv``
            with columns video, the path within the folder, and caption).

    Raises:
        ValueError: Unknown layout, or a file that is not as it should be; the message names it.
        FileNotFoundError: A file is missing, or none of a split's videos is there.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout must be one of {', '.join(LAYOUTS)}, got {layout!r}")
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder with videos and captions")
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    # By path and by name alone; videos are often converted, which changes the end of a name.
    known = {name: p for p in files for name in (p.stem, str(p.relative_to(folder).with_suffix("")))}
    return {split: _matched(LAYOUTS[layout](folder, split), known, folder, split) for split in SPLITS}


def _matched(pairs: Iterable[tuple[str, str]], known: dict[str, Path], folder: Path, split: str) -> Captions:
    videos: dict[Path, int] = {}
    texts: list[str] = []
    of_text: list[int] = []
    missing: dict[str, None] = {}
    for name, text in pairs:
        path = known.get(_stem(name))
        if path is None:
            missing[name] = None
        else:
            texts.append(text)
            of_text.append(videos.setdefault(path, len(videos)))
    if not videos:
        wanted = f", {next(iter(missing))!r} for example" if missing else ""
        raise FileNotFoundError(f"{folder} holds none of the videos of the {split} captions{wanted}")
    return Captions(list(videos), texts, of_text, list(missing))


def _stem(name: str) -> str:
    return str(Path(name).with_suffix("")) if Path(name).suffix.lower() in SUFFIXES else name


def _table(folder: Path, split: str) -> list[tuple[str, str]]:
    return [(row["video"], row["caption"]) for row in _csv(folder / f"{split}.csv", "video", "caption")]


def _msr_vtt(folder: Path, split: str) -> list[tuple[str, str]]:
    """Xu et al., "MSR-VTT" (CVPR 2016); the test captions are the 1,000 of Yu et al. (ECCV 2018)."""
    if split == "test":
        path = folder / "MSRVTT_JSFUSION_test.csv"
        return [(row["video_id"], row["sentence"]) for row in _csv(path, "video_id", "sentence")]
    lists = [folder / f"MSRVTT_train.{size}.csv" for size in ("9k", "7k")]
    chosen = next((path for path in lists if path.is_file()), lists[0])
    wanted = {row["video_id"] for row in _csv(chosen, "video_id")}
    path = folder / "MSRVTT_data.json"
    sentences = _entries(path, _json(path), "sentences", ("video_id", "caption"))
    return [(s["video_id"], s["caption"]) for s in sentences if s["video_id"] in wanted]


def _didemo(folder: Path, split: str) -> list[tuple[str, str]]:
    """Hendricks et al. (https://arxiv.org/abs/1708.01641); all descriptions of a video are one text, in their order."""
    path, listed = folder / f"{split}_data.json", folder / f"{split}_list.txt"
    wanted = set(listed.read_text(encoding="utf-8").split()) if listed.is_file() else None
    texts: dict[str, list[str]] = {}
    for entry in _entries(path, _json(path), None, ("video", "description")):
        if wanted is None or entry["video"] in wanted:
            texts.setdefault(entry["video"], []).append(entry["description"].strip())
    return [(video, " ".join(parts)) for video, parts in texts.items()]


def _json(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error


def _entries(path: Path, content: Any, key: str | None, names: Sequence[str]) -> list[dict[str, str]]:
    entries = content if key is None else content.get(key) if isinstance(content, dict) else None
    if not isinstance(entries, list) or not all(
        isinstance(entry, dict) and all(isinstance(entry.get(name), str) for name in names) for entry in entries
    ):
        where = "a list" if key is None else f"a list {key!r}"
        raise ValueError(f"{path} must hold {where} of entries with the texts {' and '.join(names)}")
    return entries


def _csv(path: Path, *columns: str) -> list[dict[str, str]]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing")
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        if absent := [name for name in columns if name not in (reader.fieldnames or ())]:
            raise ValueError(f"{path} has no column {', '.join(absent)}; it has {', '.join(reader.fieldnames or ())}")
        rows = list(reader)
    if broken := [i for i, row in enumerate(rows, start=2) if any(not row[name] for name in columns)]:
        raise ValueError(f"{path} line {broken[0]} must have {' and '.join(columns)}")
    return rows


LAYOUTS: dict[str, Callable[[Path, str], list[tuple[str, str]]]] = {
    "table": _table,
    "msr-vtt": _msr_vtt,
    "didemo": _didemo,
}
