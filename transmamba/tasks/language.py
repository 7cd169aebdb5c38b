"""Language modelling: windows of a text's tokens, the next token, perplexity and bits per byte."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from transmamba.models import MambaLM
from transmamba.tasks.task import Batch, Metric, Task
from transmamba.tasks.text import find_text, load_reader, tokenize
from transmamba.teachers import Teacher

if TYPE_CHECKING:
    from transmamba.config import RunConfig

_TOKENS = 1024  # given to a model at once when it is measured: a row of logits has the vocabulary's length


@dataclasses.dataclass(frozen=True)
class Windows:
    """Windows at random places of a text, drawn anew each time by torch's random numbers; an epoch is ``samples``.

    ``windows[indices]`` is ``(ids, labels)``, each ``(len(indices), length)``, int64: tokens and the ones behind them.
    """

    tokens: np.ndarray
    length: int
    samples: int

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, indices: list[int]) -> Batch:
        return self.at(torch.randint(len(self.tokens) - self.length, (len(indices),)))

    def at(self, starts: Tensor) -> Batch:
        """The windows that start at these tokens."""
        rows = torch.stack([torch.from_numpy(self.tokens[i : i + self.length + 1].astype(np.int64)) for i in starts])
        return rows[:, :-1], rows[:, 1:]


@dataclasses.dataclass(frozen=True)
class LanguageData(Task):
    """A text for a language model, its end held out.

    Attributes:
        name: Of the text's file.
        train: :class:`Windows` of it.
        test: Windows one behind the other, from its end.
        teacher, tokenizer: Whose tokens these are.
        bytes_per_token: Of the held-out part.
    """

    name: str
    train: Windows
    test: TensorDataset
    teacher: Teacher
    tokenizer: Any
    bytes_per_token: float
    metric: Metric = dataclasses.field(default_factory=lambda: Metric("perplexity", ".2f", higher_is_better=False))
    unit: str = "windows"

    @property
    def student_options(self) -> dict[str, Any]:
        """The tokens that the teacher knows."""
        return {"vocab_size": self.teacher.num_classes}

    def check_student(self, student: nn.Module) -> None:
        """Raise ValueError if ``student`` is no language model."""
        if not isinstance(student, MambaLM):
            raise ValueError(f"student {student.name} is no language model; one is transmamba_lm_tiny")

    def build_teacher(self, config: RunConfig) -> Teacher:
        """The language model from the teacher's path."""
        return self.teacher

    def subset(self, fraction: float, seed: int) -> Windows:
        """The first part of the text, and as much fewer windows of it."""
        whole, least = self.train, self.train.length + 1
        tokens = whole.tokens[: max(least, round(fraction * len(whole.tokens)))]
        return Windows(tokens, whole.length, max(1, round(fraction * whole.samples)))

    def loss(self, model: nn.Module, *batch: Tensor) -> Tensor:
        """Cross-entropy with the next tokens."""
        ids, labels = batch
        output = model(ids)
        logits: Tensor = getattr(output, "logits", output)
        return F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten())

    @torch.no_grad()
    def measure(self, model: nn.Module) -> dict[str, float]:
        """``perplexity`` per token and ``bits_per_byte`` on the held-out windows, each read by itself."""
        training, device = model.training, next(model.parameters()).device
        model.eval()
        step, ids, labels = max(1, _TOKENS // self.train.length), *self.test.tensors
        losses = [
            len(rows) * self.loss(model, rows.to(device), wanted.to(device)).item()
            for rows, wanted in zip(ids.split(step), labels.split(step), strict=True)
        ]
        model.train(training)
        mean = sum(losses) / len(ids)
        return {"perplexity": math.exp(mean), "bits_per_byte": mean / math.log(2) / self.bytes_per_token}

    def keep(self, folder: Path) -> None:
        """Write the tokenizer, which ``AutoTokenizer`` of transformers reads."""
        self.tokenizer.save_pretrained(folder)

    def inputs(self, dataset: Any, count: int) -> list[Tensor]:
        """A few windows from all over the text, in batches of about a thousand tokens, at most eight of these."""
        step = max(1, _TOKENS // self.train.length)
        count = min(count, 8 * step)
        if not isinstance(dataset, Windows):
            return list(dataset.tensors[0][:count].split(step))
        last = len(dataset.tokens) - dataset.length - 1
        return list(dataset.at(torch.linspace(0, last, count).long())[0].split(step))


def load_language(config: RunConfig) -> LanguageData:
    """The text at ``data_dir``, in the tokens of the teacher.

    The tokens are kept in a folder beside the runs, so that a long text is read once.

    Raises:
        FileNotFoundError: There is no text, or no teacher; the message says how to get one.
        ValueError: The teacher is no language model, or the text is too short.
        ImportError: transformers is not installed.
    """
    path, options = find_text(config.data_dir), config.text
    teacher, tokenizer = load_reader(config.teacher.path)
    if not teacher.spec.head:
        raise ValueError(f"the teacher must be a causal language model, got {type(teacher.model).__name__}")
    tokens = tokenize(path, options.size, tokenizer, config.folder.parent / "tokens")
    length, test = options.length, options.test_samples * options.length + 1
    if len(tokens) < test + 2 * length:
        raise ValueError(
            f"{path} has {len(tokens)} tokens, too few for {options.test_samples} held-out windows of {length} and "
            "some to train on: lower --text.test-samples or --text.length, or raise --text.size"
        )
    rest, held_out = tokens[:-test], torch.from_numpy(tokens[-test:].astype(np.int64))
    written = len(tokenizer.decode(held_out[1:].tolist()).encode())
    return LanguageData(
        name=path.name,
        train=Windows(rest, length, options.samples or len(rest) // length),
        test=TensorDataset(held_out[:-1].view(-1, length), held_out[1:].view(-1, length)),
        teacher=teacher,
        tokenizer=tokenizer,
        bytes_per_token=written / (test - 1),
    )
