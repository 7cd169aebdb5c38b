"""Files that can be decoded give the frames that they should; all others say why not, and are counted."""

import json

import numpy as np
import pytest
import torch

from transmamba.tasks import video
from transmamba.tasks.video import VideoError, cache_clips, find_videos, read_clip, to_float, write_video

av = pytest.importorskip("av")


def blocks(count, height=32, width=32):
    """Frames with a white block that stands elsewhere in each."""
    frames = np.zeros((count, height, width), np.uint8)
    for i, frame in enumerate(frames):
        frame[8 * (i // 4) : 8 * (i // 4) + 8, 8 * (i % 4) : 8 * (i % 4) + 8] = 255
    return frames


def test_the_middle_of_equal_parts_is_taken(tmp_path):
    frames = blocks(12)
    write_video(tmp_path / "a.mp4", frames)
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]
    for channels in (1, 3):
        clip = read_clip(tmp_path / "a.mp4", 4, 32, channels)
        assert clip.dtype == np.uint8
        assert clip.shape == (channels, 4, 32, 32)
        assert all(((plane > 127) == (frames[[1, 4, 7, 10]] > 127)).all() for plane in clip)
    assert ((read_clip(tmp_path / "a.mp4", 12, 32, 1)[0] > 127) == (frames > 127)).all()


def test_frames_are_resized_and_cut_out_of_the_middle(tmp_path):
    frames = np.zeros((4, 32, 64), np.uint8)
    frames[:, :, 16:32] = 255  # the left half of the middle
    write_video(tmp_path / "wide.mp4", frames)
    clip = read_clip(tmp_path / "wide.mp4", 2, 16)
    assert clip.shape == (3, 2, 16, 16)
    assert (clip[..., :6] > 200).all()
    assert (clip[..., 10:] < 55).all()


def test_floats():
    clips = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1)
    assert to_float(clips).flatten().tolist() == [-1, 1]
    assert to_float(clips, [0.0, 1.0], [1.0, 2.0]).flatten().tolist() == [0, 0]


@pytest.fixture
def folder(tmp_path):
    """Three good files, one of them in a folder of its own, and five that are not."""
    for name in ("a.mp4", "b.mp4", "more/c.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_video(tmp_path / name, blocks(8))
    whole = (tmp_path / "a.mp4").read_bytes()
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.avi").write_text("no video")
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    with (
        av.open(str(tmp_path / "a.mp4")) as file,
        av.open(str(tmp_path / "front.mp4"), "w", options={"movflags": "faststart"}) as copy,
    ):
        stream = copy.add_stream_from_template(file.streams.video[0])
        for packet in file.demux(file.streams.video[0]):
            if packet.size:
                packet.stream = stream
                copy.mux(packet)
    whole = (tmp_path / "front.mp4").read_bytes()
    (tmp_path / "middle.mp4").write_bytes(whole[:-100])
    (tmp_path / "front.mp4").unlink()
    write_video(tmp_path / "short.mp4", blocks(3))
    (tmp_path / "notes.txt").touch()
    return tmp_path


REASONS = {
    "empty.mp4": "is empty",
    "text.avi": "cannot be decoded",
    "cut.mp4": "(cannot be decoded|holds no video)",  # its index is gone, so it can be anything
    "middle.mp4": "damaged: it holds [1-7] of the 8 frames that it promises",
    "short.mp4": "too short: it has 3 frames, 4 are needed",
}


def test_each_bad_file_says_why(folder):
    for name, reason in REASONS.items():
        with pytest.raises(VideoError, match=f"{name} .*{reason}"):
            read_clip(folder / name, 4, 32)
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_clip(folder / "z.mp4", 4, 32)
    with pytest.raises(NotADirectoryError, match="not a folder"):
        find_videos(folder / "a.mp4")
    (folder / "none").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no file that ends in .avi"):
        find_videos(folder / "none")


def test_a_cache_holds_what_can_be_used_and_counts_the_rest(folder, monkeypatch):
    paths, seen = find_videos(folder), []
    assert len(paths) == 8
    clips, skipped = cache_clips(paths, 4, 32, 1, folder / "cache", lambda done, total: seen.append((done, total)))
    assert {path.removeprefix(f"{folder}/") for path in skipped} == set(REASONS)
    assert seen[-1] == (8, 8)
    for row, path in enumerate(paths):
        if str(path) not in skipped:
            np.testing.assert_array_equal(clips[row], read_clip(path, 4, 32, 1))
    with pytest.raises(ValueError, match="read-only"):
        clips[0] = 0

    monkeypatch.setattr(video, "read_clip", None)  # nothing is decoded twice
    again, same = cache_clips(paths, 4, 32, 1, folder / "cache")
    assert same == skipped
    np.testing.assert_array_equal(again, clips)
    with pytest.raises(TypeError):  # but other clips of the same files are
        cache_clips(paths, 2, 32, 1, folder / "cache")


def test_decoding_goes_on_where_it_stopped(folder, monkeypatch):
    monkeypatch.setattr(video, "_KEEP_EVERY", 2)
    paths, read = find_videos(folder), video.read_clip

    def stop_at_the_end(path, *options):
        if path == paths[-1]:
            raise KeyboardInterrupt
        return read(path, *options)

    monkeypatch.setattr(video, "read_clip", stop_at_the_end)
    with pytest.raises(KeyboardInterrupt):
        cache_clips(paths, 4, 32, 1, folder / "cache")
    done = json.loads((folder / "cache.json").read_text())["done"]
    assert 0 < done < len(paths)
    calls = []
    monkeypatch.setattr(video, "read_clip", lambda path, *options: calls.append(path) or read(path, *options))
    clips, skipped = cache_clips(paths, 4, 32, 1, folder / "cache")
    assert calls == paths[done:]
    assert len(skipped) == 5
    np.testing.assert_array_equal(clips[0], read(paths[0], 4, 32, 1))
