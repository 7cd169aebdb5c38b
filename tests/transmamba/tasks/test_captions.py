"""The layouts in which MSR-VTT and DiDeMo are published, on tiny files, and a table of one's own."""

import csv
import json

import pytest

from transmamba.tasks.captions import load_captions


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def write_csv(path, *rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


@pytest.fixture
def msr_vtt(tmp_path):
    touch(tmp_path, *(f"videos/all/video{i}.mp4" for i in (0, 1, 7)))
    pairs = [("video0", "a man sings"), ("video1", "a dog runs"), ("video0", "someone sings"), ("video7", "a test")]
    content = {
        "videos": [{"video_id": f"video{i}", "split": "train", "category": 9, "id": i} for i in (0, 1, 2, 7)],
        "sentences": [
            {"caption": text, "video_id": video, "sen_id": i}
            for i, (video, text) in enumerate([*pairs, ("video2", "its file is missing")])
        ],
    }
    (tmp_path / "MSRVTT_data.json").write_text(json.dumps(content))
    write_csv(tmp_path / "MSRVTT_train.9k.csv", ["video_id"], ["video0"], ["video1"], ["video2"])
    rows = ["ret0", "msr7", "video7", "a woman, who cooks"]
    write_csv(tmp_path / "MSRVTT_JSFUSION_test.csv", ["key", "vid_key", "video_id", "sentence"], rows)
    return tmp_path


def test_msr_vtt(msr_vtt):
    train, test = load_captions("msr-vtt", msr_vtt).values()
    assert [path.stem for path in train.videos] == ["video0", "video1"]
    assert train.texts == ["a man sings", "a dog runs", "someone sings"]
    assert train.video_of_text == [0, 1, 0]
    assert train.missing == ["video2"]
    assert (test.texts, test.video_of_text, test.missing) == (["a woman, who cooks"], [0], [])


def test_didemo(tmp_path):
    touch(tmp_path, "videos/12@N00_1.mp4", "videos/12@N00_2.mov")
    entries = [
        ("12@N00_1.avi", "a cat sleeps. "),
        ("12@N00_2.mov", "it rains"),
        ("12@N00_1.avi", "the cat wakes up"),
        ("12@N00_3.mov", "not in the list"),
    ]
    for split in ("train", "test"):
        content = [
            {"annotation_id": i, "video": video, "description": text, "times": [[0, 1]], "num_segments": 6}
            for i, (video, text) in enumerate(entries)
        ]
        (tmp_path / f"{split}_data.json").write_text(json.dumps(content))
    (tmp_path / "train_list.txt").write_text("12@N00_1.avi\n12@N00_2.mov\n")
    train, test = load_captions("didemo", tmp_path).values()
    # Found though its name ends otherwise now; all that is said about a video is one text.
    assert [path.name for path in train.videos] == ["12@N00_1.mp4", "12@N00_2.mov"]
    assert train.texts == ["a cat sleeps. the cat wakes up", "it rains"]
    assert (train.missing, test.missing) == ([], ["12@N00_3.mov"])


def test_a_table(tmp_path):
    touch(tmp_path, "x/1.mp4", "y/1.mp4")
    for split in ("train", "test"):
        rows = [["video", "caption"], ["x/1.mp4", "one"], ["y/1.mp4", "two"], ["z.mp4", "none"]]
        write_csv(tmp_path / f"{split}.csv", *rows)
    found = load_captions("table", tmp_path)["test"]
    assert [str(path.relative_to(tmp_path)) for path in found.videos] == ["x/1.mp4", "y/1.mp4"]
    assert found.missing == ["z.mp4"]


def test_what_is_wrong_is_named(msr_vtt):
    with pytest.raises(ValueError, match="layout must be one of"):
        load_captions("coco", msr_vtt)
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        load_captions("table", msr_vtt / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"train.csv is missing"):
        load_captions("table", msr_vtt)
    write_csv(msr_vtt / "train.csv", ["video", "text"], ["a.mp4", "b"])
    with pytest.raises(ValueError, match=r"train.csv has no column caption; it has video, text"):
        load_captions("table", msr_vtt)
    write_csv(msr_vtt / "train.csv", ["video", "caption"], ["a.mp4", "b"], ["a.mp4"])
    with pytest.raises(ValueError, match=r"train.csv line 3 must have video and caption"):
        load_captions("table", msr_vtt)
    write_csv(msr_vtt / "train.csv", ["video", "caption"], ["a.mp4", "b"])
    with pytest.raises(FileNotFoundError, match=r"none of the videos of the train captions, 'a.mp4' for example"):
        load_captions("table", msr_vtt)
    (msr_vtt / "MSRVTT_data.json").write_text("{")
    with pytest.raises(ValueError, match=r"MSRVTT_data.json is not valid JSON"):
        load_captions("msr-vtt", msr_vtt)
    (msr_vtt / "MSRVTT_data.json").write_text('{"sentences": [{"video_id": 3}]}')
    with pytest.raises(ValueError, match=r"a list 'sentences' of entries with the texts video_id and caption"):
        load_captions("msr-vtt", msr_vtt)
