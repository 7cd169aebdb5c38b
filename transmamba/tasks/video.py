"""Videos: files decoded with PyAV into a fixed number of square frames, one by one or many into one array."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from transmamba.files import write_json

SUFFIXES = (".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".webm", ".wmv")
_KEEP_EVERY = 100  # files after which a cache notes how far it is


class VideoError(ValueError):
    """A file that gives no clip; the message names it and says why."""


def find_videos(folder: str | Path) -> list[Path]:
    """Files below ``folder`` whose names end like those of videos, sorted.

    Raises:
        NotADirectoryError: There is no such folder.
        FileNotFoundError: It holds no video.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is not a folder of videos")
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not found:
        raise FileNotFoundError(f"{folder} holds no file that ends in {', '.join(SUFFIXES)}")
    return found


def read_clip(path: str | Path, num_frames: int, size: int, channels: int = 3) -> np.ndarray:
    """Decode ``num_frames`` frames of a file, the middle ones of as many equal parts of it.

    Each is resized until its shorter side has ``size`` pixels, and cut out of the middle.

    Args:
        channels: 3 for RGB, 1 for grey, the mean of these.

    Returns:
        uint8 ``(channels, num_frames, size, size)``; :func:`to_float` makes a student's input of it.

    Raises:
        FileNotFoundError: There is no such file.
        VideoError: It is empty, no video, damaged, or has fewer than ``num_frames`` frames.
        ImportError: PyAV is not installed.
    """
    av, path = pyav(), Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file")
    if not path.stat().st_size:
        raise VideoError(f"{path} is empty")
    try:
        with av.open(str(path)) as file:
            frames = [_square(frame, size, channels) for frame in _sampled(path, file, num_frames)]
    except av.error.FFmpegError as error:
        raise VideoError(f"{path} cannot be decoded: {error.strerror}") from error
    return np.ascontiguousarray(np.stack(frames).transpose(3, 0, 1, 2))


def _sampled(path: Path, file: Any, num_frames: int) -> Iterator[Any]:
    if not file.streams.video:
        raise VideoError(f"{path} holds no video")
    stream = file.streams.video[0]
    # Counted: what a header says is missing in some formats, and more than there is in a file that was cut off.
    count = sum(packet.size > 0 for packet in file.demux(stream))
    if count < 0.9 * stream.frames:  # some formats also count frames that were dropped when they were recorded
        raise VideoError(f"{path} is damaged: it holds {count} of the {stream.frames} frames that it promises")
    if count < num_frames:
        raise VideoError(f"{path} is too short: it has {count} frames, {num_frames} are needed")
    wanted = [(2 * i + 1) * count // (2 * num_frames) for i in range(num_frames)]
    file.seek(0)
    found = 0
    for i, frame in enumerate(file.decode(stream)):
        if i == wanted[found]:
            yield frame
            found += 1
            if found == num_frames:
                return
    raise VideoError(f"{path} is damaged: {found} of {num_frames} frames could be decoded")


def _square(frame: Any, size: int, channels: int) -> np.ndarray:
    scale = size / min(frame.width, frame.height)
    width, height = (max(size, round(side * scale)) for side in (frame.width, frame.height))
    image = frame.to_ndarray(format="rgb24", width=width, height=height, interpolation="BICUBIC")
    top, left = (height - size) // 2, (width - size) // 2
    image = image[top : top + size, left : left + size]
    return image if channels == 3 else np.rint(image.mean(-1, keepdims=True)).astype(np.uint8)


def to_float(clips: Tensor, mean: Sequence[float] = (0.5,), std: Sequence[float] = (0.5,)) -> Tensor:
    """uint8 ``(..., channels, frames, H, W)`` as float32, from -1 to 1 with the default ``mean`` and ``std``."""
    centre, spread = (torch.tensor(values, dtype=torch.float32).view(-1, 1, 1, 1) for values in (mean, std))
    return (clips.float() / 255 - centre) / spread


def read_clips(
    paths: Sequence[Path], num_frames: int, size: int, channels: int, skipped: dict[str, str]
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield index and :func:`read_clip` of every usable file; ``skipped`` receives the others, and why."""
    for i, path in enumerate(paths):
        try:
            yield i, read_clip(path, num_frames, size, channels)
        except (VideoError, FileNotFoundError) as error:
            skipped[str(path)] = str(error)


def cache_clips(
    paths: Sequence[Path],
    num_frames: int,
    size: int,
    channels: int,
    cache: str | Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[np.ndarray, dict[str, str]]:
    """Decode files into one memory-mapped array beside which ``cache`` notes what is in it, and go on where it stopped.

    Args:
        cache: Path without suffix of the array (``.npy``) and the note (``.json``). One of other files, or of these
            before they changed, is written anew.
        progress: Told how many of all files are done.

    Returns:
        uint8 ``(files, channels, num_frames, size, size)``, read only, and why files were skipped, by path; their rows
        hold nothing.
    """
    array, note = (Path(f"{cache}{suffix}") for suffix in (".npy", ".json"))
    shape = (len(paths), channels, num_frames, size, size)
    key = _key(paths, shape)
    known = _read_note(note) if array.is_file() else {}
    known = known if known.get("key") == key else {"key": key, "done": 0, "skipped": {}}
    done, skipped = known["done"], known["skipped"]
    if done < len(paths):
        array.parent.mkdir(parents=True, exist_ok=True)
        clips = np.lib.format.open_memmap(array, "r+" if done else "w+", np.uint8, None if done else shape)
        start = done
        for start in range(done, len(paths), _KEEP_EVERY):
            part = paths[start : start + _KEEP_EVERY]
            for i, clip in read_clips(part, num_frames, size, channels, skipped):
                clips[start + i] = clip
                progress(start + i + 1, len(paths))
            clips.flush()
            write_json(note, {"key": key, "done": start + len(part), "skipped": skipped})
        progress(len(paths), len(paths))
    return np.load(array, mmap_mode="r"), skipped


def _key(paths: Sequence[Path], shape: tuple[int, ...]) -> str:
    """Differs when the files do, or the clips that are wanted of them."""
    digest = hashlib.sha256(repr(shape).encode())
    for path in paths:
        stat = path.stat() if path.is_file() else None
        digest.update(f"{path}\0{stat and (stat.st_size, stat.st_mtime_ns)}\n".encode())
    return digest.hexdigest()


def _read_note(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write_video(path: str | Path, frames: np.ndarray, rate: int = 8) -> None:
    """Encode grey ``frames``, uint8 ``(n, H, W)`` with even sides, as h264 in an mp4 file; there whole or not at all.

    Raises:
        OSError: It cannot be written.
        ImportError: PyAV is not installed.
    """
    av, path = pyav(), Path(path)
    # What is written does not depend on how many threads there are.
    options = {"preset": "ultrafast", "crf": "18", "threads": "1"}
    part = path.with_name(f".{path.name}.part")
    try:
        with av.open(str(part), "w", format="mp4") as file:
            stream = file.add_stream("libx264", rate=rate, options=options)
            stream.height, stream.width = frames.shape[1:]
            stream.pix_fmt = "yuv420p"
            for frame in frames:
                image = np.repeat(frame[..., None], 3, axis=-1)
                file.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            file.mux(stream.encode())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def pyav() -> Any:
    """The module ``av``, which says nothing of its own.

    Raises:
        ImportError: PyAV is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise ImportError('videos need PyAV: pip install "transmamba[video]"') from error
    av.logging.set_level(None)  # damaged files are told of once, by the exception
    return av
