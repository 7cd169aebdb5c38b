"""Atomic writes: whole or not at all."""

import errno
import json

import pytest

from transmamba.files import write_atomic, write_json


def test_writes_and_replaces(tmp_path):
    write_atomic(tmp_path / "a", b"one")
    write_atomic(tmp_path / "a", b"two")
    write_json(tmp_path / "b.json", {"é": [1]})
    assert (tmp_path / "a").read_bytes() == b"two"
    assert json.loads((tmp_path / "b.json").read_text(encoding="utf-8")) == {"é": [1]}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b.json"]


@pytest.mark.parametrize("call", ["os.fsync", "os.replace", "os.chmod"])
def test_a_failure_leaves_the_old_file(tmp_path, monkeypatch, call):
    write_atomic(tmp_path / "a", b"one")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(call, full)
    with pytest.raises(OSError, match=r"cannot write .*a: No space left on device; the file that was there is as it"):
        write_atomic(tmp_path / "a", b"two")
    assert (tmp_path / "a").read_bytes() == b"one"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"cannot write .*nowhere/a: No such file"):
        write_atomic(tmp_path / "nowhere" / "a", b"")
