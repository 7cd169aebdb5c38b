"""Sentence embeddings: a text encoder learns to say what its teacher says, on sentences without labels."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from transmamba.distill import Distiller
from transmamba.models import MambaTextEncoder
from transmamba.models.text_encoder import Pooling
from transmamba.tasks.task import Batch, Metric, Task
from transmamba.tasks.text import find_text, load_reader, read_text, sentences_of
from transmamba.teachers import Teacher

if TYPE_CHECKING:
    from transmamba.config import RunConfig

NEIGHBOURS = 10


class Sentences:
    """Sentences, and what the teacher makes of them, which it is asked once and when it is needed.

    ``sentences[indices]`` is ``(ids, mask, embeddings)``: int64 ``(n, length)`` twice, as long as the longest of these,
    and ``(n, d)``, of length 1.

    Args:
        ids, mask: ``(sentences, length)``, padded behind.
        teacher: Makes the embeddings.
        samples: If given, an epoch is so many sentences, drawn anew each time by torch's random numbers.
        known: Embeddings that the teacher made already, ``(sentences, d)``; nan where it did not.
    """

    def __init__(
        self, ids: Tensor, mask: Tensor, teacher: Teacher, samples: int | None = None, known: Tensor | None = None
    ):
        self.ids, self.mask, self.teacher, self.samples = ids, mask, teacher, samples
        self._known = torch.full((len(ids), teacher.d_model), torch.nan) if known is None else known

    def __len__(self) -> int:
        return self.samples or len(self.ids)

    def __getitem__(self, indices: list[int]) -> Batch:
        rows = torch.randint(len(self.ids), (len(indices),)) if self.samples else torch.as_tensor(indices)
        length = int(self.mask[rows].sum(1).max())
        ids, mask = self.ids[rows, :length], self.mask[rows, :length]
        if self._known[rows].isnan().any():
            self._known[rows] = embed(self.teacher, ids, mask)
        return ids, mask, self._known[rows]

    def part(self, fraction: float) -> Sentences:
        """The first part of the sentences, and as much fewer per epoch; what the teacher said of them is shared."""
        count = max(1, round(fraction * len(self.ids)))
        samples = self.samples and max(1, round(fraction * self.samples))
        return Sentences(self.ids[:count], self.mask[:count], self.teacher, samples, self._known[:count])


@torch.no_grad()
def embed(model: nn.Module, ids: Tensor, mask: Tensor) -> Tensor:
    """Embeddings of length 1, ``(sentences, d)`` in float32 on the CPU, by a student or a :class:`Teacher`.

    A teacher's are the mean over the tokens of its last layer, as those of Sentence-BERT
    (https://arxiv.org/abs/1908.10084).
    """
    device = next(model.parameters()).device
    ids, mask = ids.to(device), mask.to(device)
    if isinstance(model, Teacher):
        return Pooling("mean")(model(ids, mask).features[-1], mask).float().cpu()
    return model(ids, attention_mask=mask).float().cpu()


@dataclasses.dataclass(frozen=True)
class EmbeddingData(Task):
    """Sentences for a text encoder; the teacher's embeddings are all there is to learn.

    Attributes:
        name: Of the text's file.
        train, test: :class:`Sentences`; the held-out ones are the last of the text.
        teacher, tokenizer: Whose embeddings and tokens they have.
    """

    name: str
    train: Sentences
    test: Sentences
    teacher: Teacher
    tokenizer: Any
    metric: Metric = dataclasses.field(default_factory=lambda: Metric("cosine", ".4f"))
    unit: str = "sentences"

    @property
    def student_options(self) -> dict[str, Any]:
        """The tokens that the teacher knows."""
        return {"vocab_size": self.teacher.part("embedding").num_embeddings}

    def check_student(self, student: nn.Module) -> None:
        """Raise ValueError if ``student`` is no text encoder as wide as the teacher."""
        if not isinstance(student, MambaTextEncoder):
            raise ValueError(f"student {student.name} is no text encoder; one is transmamba_text_small")
        if student.config.d_model != self.teacher.d_model:
            raise ValueError(
                f"student {student.name} is {student.config.d_model} wide, the teacher's embeddings are "
                f"{self.teacher.d_model}: give --student-options d_model {self.teacher.d_model}"
            )

    def build_teacher(self, config: RunConfig) -> Teacher:
        """The encoder from the teacher's path."""
        if config.teacher.fine_tune:
            raise ValueError("sentences have no labels that a teacher could be fine-tuned on")
        return self.teacher

    def subset(self, fraction: float, seed: int) -> Sentences:
        """The first part of the sentences."""
        return self.train.part(fraction)

    def criterion(self, output: Tensor, labels: Tensor) -> Tensor:
        """One minus the cosine between embeddings, mean over the sentences."""
        return 1 - F.cosine_similarity(output.float(), labels, dim=-1).mean()

    def loss(self, model: nn.Module, *batch: Tensor) -> Tensor:
        """:meth:`criterion` of the student's embeddings and the teacher's."""
        ids, mask, embeddings = batch
        return self.criterion(model(ids, attention_mask=mask), embeddings)

    def distill(self, distiller: Distiller, *batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """The distiller's loss; padding does not count."""
        ids, mask, embeddings, progress = batch
        return distiller.loss(ids, embeddings, progress, attention_mask=mask)

    def measure(self, model: nn.Module) -> dict[str, float]:
        """``cosine`` to the teacher, and ``agreement``: how many of a sentence's 10 nearest are the teacher's 10."""
        training = model.training
        model.eval()
        batches = [self.test[rows.tolist()] for rows in torch.arange(len(self.test)).split(64)]
        own = torch.cat([embed(model, ids, mask) for ids, mask, _ in batches])
        model.train(training)
        wanted = torch.cat([embeddings for *_, embeddings in batches])
        return {"cosine": F.cosine_similarity(own, wanted, dim=-1).mean().item(), "agreement": agreement(own, wanted)}

    def keep(self, folder: Path) -> None:
        """Write the tokenizer, which ``AutoTokenizer`` of transformers reads."""
        self.tokenizer.save_pretrained(folder)

    def inputs(self, dataset: Any, count: int) -> list[Tensor]:
        """Sentences that fill their row, up to ``count`` of them, in batches of 32."""
        length = int(dataset.mask.sum(1).float().mean())
        rows = (dataset.mask.sum(1) >= length).nonzero().flatten()[: min(count, 256)]
        return list(dataset.ids[rows, :length].split(32))


def agreement(own: Tensor, wanted: Tensor, neighbours: int = NEIGHBOURS) -> float:
    """Mean part of each row's nearest ``neighbours`` by ``own`` that are also its nearest by ``wanted``.

    Both are embeddings of length 1 of the same sentences, ``(n, d)``; a sentence is not its own neighbour.
    """
    k = min(neighbours, len(own) - 1)
    near, wanted_near = ((e @ e.T).fill_diagonal_(-torch.inf).topk(k).indices for e in (own, wanted))
    return (near.unsqueeze(-1) == wanted_near.unsqueeze(1)).any(-1).float().mean().item()


def load_sentences(config: RunConfig) -> EmbeddingData:
    """Sentences cut from the text at ``data_dir``, in the tokens of the teacher.

    Raises:
        FileNotFoundError: There is no text, or no teacher; the message says how to get one.
        ValueError: The teacher does not read text, or there are too few sentences.
        ImportError: transformers is not installed.
    """
    path, options = find_text(config.data_dir), config.text
    teacher, tokenizer = load_reader(config.teacher.path)
    found, test = sentences_of(read_text(path, options.size)), options.test_samples
    if len(found) <= test:
        raise ValueError(
            f"{path} has {len(found)} sentences, too few for {test} held-out ones and some to train on: "
            "lower --text.test-samples, or raise --text.size"
        )
    read = tokenizer(found, padding=True, truncation=True, max_length=options.length, return_tensors="pt")
    ids, mask = read["input_ids"], read["attention_mask"]
    train = Sentences(ids[:-test], mask[:-test], teacher, options.samples)
    return EmbeddingData(path.name, train, Sentences(ids[-test:], mask[-test:], teacher), teacher, tokenizer)
