"""Visual instructions in LLaVA's JSON: images, conversations, a loss on the answers, and answers that are generated."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from transmamba.models import MambaVLM
from transmamba.tasks.colour_images import open_image
from transmamba.tasks.task import Batch

IMAGE = "<image>"
IGNORED = -100
TEMPLATES = ("plain", "chat")
# Of CLIP's images, in RGB.
_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclasses.dataclass(frozen=True)
class Conversation:
    """One sample.

    Attributes:
        ids: ``(length,)``; the image is as many image tokens as the model has for one.
        labels: The token behind each token where an answer is to be learned, else -100.
        prompt: Tokens before the first answer.
        answer: That answer as text.
        image: Its file, or None.
    """

    ids: Tensor
    labels: Tensor
    prompt: int
    answer: str
    image: Path | None


class Instructions:
    """Conversations about images, as :class:`transmamba.train.Trainer` takes them.

    A batch is ``(input_ids, labels, attention_mask, pixel_values)``, padded to its longest conversation; a conversation
    without an image has zeros there.

    Args:
        path: LLaVA-instruct JSON: a list of ``{"image": file, "conversations": [{"from": "human", "value": text},
            {"from": "gpt", "value": text}, ...]}``, with ``<image>`` in the text where there is one.
        images: Folder that the image files are named from.
        tokenizer: The language model's, of ``transformers``.
        model: Whose images and image tokens these are to be.
        template: ``"plain"``, that of LLaVA-1.5 (``USER: ... ASSISTANT: ...``), or ``"chat"``, the tokenizer's own.
        max_length: Conversations are cut to so many tokens.

    Raises:
        FileNotFoundError: The file or some images are missing; the message says how many.
        ValueError: Something is no conversation; the message says which and why.
        ImportError: pillow is not installed.
    """

    def __init__(
        self,
        path: str | Path,
        images: str | Path,
        tokenizer: Any,
        model: MambaVLM,
        template: str = "plain",
        max_length: int = 2048,
    ):
        if template not in TEMPLATES:
            raise ValueError(f"template must be one of {', '.join(TEMPLATES)}, got {template!r}")
        if template == "chat" and not tokenizer.chat_template:
            raise ValueError("template must be 'plain': the tokenizer has no chat template")
        self.tokenizer, self.template, self.model = tokenizer, template, model
        config = model.vision_tower.config
        self.size, self.channels = config.image_size, config.in_channels
        self.samples = [
            self._conversation(entry, Path(images), max_length, f"entry {i} of {path}")
            for i, entry in enumerate(_read(Path(path)))
        ]
        missing = sorted({str(s.image) for s in self.samples if s.image is not None and not s.image.is_file()})
        if missing:
            without = sum(str(s.image) in missing for s in self.samples)
            raise FileNotFoundError(
                f"{len(missing)} images of {without} of {len(self.samples)} conversations in {path} are missing, "
                f"{missing[0]} first"
            )

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, indices: Sequence[int]) -> Batch:
        chosen = [self.samples[i] for i in indices]
        pad = self.tokenizer.eos_token_id
        ids = torch.nn.utils.rnn.pad_sequence([s.ids for s in chosen], True, pad)
        labels = torch.nn.utils.rnn.pad_sequence([s.labels for s in chosen], True, IGNORED)
        lengths = torch.tensor([len(s.ids) for s in chosen])
        mask = torch.arange(ids.shape[1]) < lengths.unsqueeze(1)
        return ids, labels, mask, torch.stack([self._pixels(s.image) for s in chosen])

    def question(self, text: str, image: str | Path | None = None) -> dict[str, Tensor]:
        """What the model takes to answer ``text``, with ``image`` before it unless the text says where."""
        if image is not None and IMAGE not in text:
            text = f"{IMAGE}\n{text}"
        (prompt, _), *_ = self._pieces([text, ""])
        ids = torch.tensor([self._ids(prompt, True)])
        return model_inputs(self.model, ids, None if image is None else self._pixels(Path(image)).unsqueeze(0))

    def _conversation(self, entry: Any, folder: Path, max_length: int, where: str) -> Conversation:
        turns = _turns(entry, where)
        image = entry.get("image")
        written = sum(turn.count(IMAGE) for turn in turns)
        if written != (image is not None):
            raise ValueError(f"{where} has {int(image is not None)} image, but {IMAGE} is there {written} times")
        ids: list[int] = []
        is_answer: list[bool] = []
        prompt = 0
        for text, answers in self._pieces(turns):
            piece = self._ids(text, not ids)
            prompt = prompt or (len(ids) if answers else 0)
            ids += piece
            is_answer += [answers] * len(piece)
        tokens, learned = torch.tensor(ids[:max_length]), torch.tensor(is_answer[:max_length])
        if prompt >= max_length:
            raise ValueError(f"max_length must be above {prompt}, the first question of {where}, got {max_length}")
        behind, is_behind = tokens.roll(-1), learned.roll(-1)
        is_behind[-1] = False
        labels = behind.masked_fill(~is_behind, IGNORED)
        return Conversation(tokens, labels, prompt, turns[1], None if image is None else folder / image)

    def _pieces(self, turns: Sequence[str]) -> Iterator[tuple[str, bool]]:
        """Texts of the template in turn, and whether each is an answer."""
        if self.template == "plain":
            for i, (question, answer) in enumerate(zip(turns[::2], turns[1::2], strict=True)):
                yield f"{' ' if i else ''}USER: {question} ASSISTANT:", False
                yield f" {answer}{self.tokenizer.eos_token}", True
            return
        messages = [{"role": ("user", "assistant")[i % 2], "content": turn} for i, turn in enumerate(turns)]
        done = ""
        for i in range(len(turns)):
            until: str = self.tokenizer.apply_chat_template(
                messages[: i + 1], tokenize=False, add_generation_prompt=i % 2 == 0
            )
            if not until.startswith(done):
                raise ValueError("template must be 'plain': the tokenizer's chat template changes earlier turns")
            yield until[len(done) :], i % 2 == 1
            done = until

    def _ids(self, text: str, is_first: bool) -> list[int]:
        first, *others = text.split(IMAGE)
        special = is_first and self.template == "plain"  # a chat template writes its own
        ids = list(self.tokenizer(first, add_special_tokens=special).input_ids)
        for other in others:
            ids += [self.model.image_token_id] * self.model.tokens_per_image
            ids += self.tokenizer(other, add_special_tokens=False).input_ids
        return ids

    def _pixels(self, path: Path | None) -> Tensor:
        if path is None:
            return torch.zeros(self.channels, self.size, self.size)
        return read_image(path, self.size, self.channels)


def read_image(path: str | Path, size: int, channels: int = 3) -> Tensor:
    """Return the image, made square with its own mean and normalised as CLIP does, ``(channels, size, size)``.

    Raises:
        ValueError: The file is no image.
    """
    image = open_image(path, "RGB" if channels == 3 else "L")
    from PIL import Image, ImageOps

    mean, std = (_MEAN, _STD) if channels == 3 else ((sum(_MEAN) / 3,), (sum(_STD) / 3,))
    colour: Any = tuple(round(255 * m) for m in mean)
    square = ImageOps.pad(image, (size, size), Image.Resampling.BICUBIC, color=colour if channels == 3 else colour[0])
    pixels = torch.from_numpy(np.array(square, dtype=np.float32)).reshape(size, size, channels).permute(2, 0, 1) / 255
    return (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


def model_inputs(
    model: MambaVLM, ids: Tensor, pixels: Tensor | None, attention_mask: Tensor | None = None
) -> dict[str, Tensor]:
    """Arguments of student and LLaVA teacher by name, with the images of those rows that have one."""
    inputs = {"input_ids": ids}
    if attention_mask is not None:
        inputs["attention_mask"] = attention_mask
    if pixels is not None and (seen := (ids == model.image_token_id).any(1)).any():
        inputs["pixel_values"] = pixels[seen]
    return inputs


def answer_loss(model: MambaVLM, ids: Tensor, labels: Tensor, attention_mask: Tensor, pixels: Tensor) -> Tensor:
    """Mean cross-entropy over the tokens of the answers of a batch of :class:`Instructions`; a scalar."""
    features = model.forward_features(model_inputs(model, ids, pixels, attention_mask))
    learned = labels != IGNORED
    return F.cross_entropy(model.head(features[learned]).float(), labels[learned])


@torch.no_grad()
def generate_answers(model: MambaVLM, data: Instructions, max_new_tokens: int = 32, batch_size: int = 64) -> list[str]:
    """Answer the first question of every conversation, greedily; questions of one length are answered together."""
    answers = [""] * len(data)
    lengths: dict[int, list[int]] = {}
    for i, sample in enumerate(data.samples):
        lengths.setdefault(sample.prompt, []).append(i)
    device, end = next(model.parameters()).device, data.tokenizer.eos_token_id
    was_training = model.training
    model.eval()
    for prompt, all_of_it in lengths.items():
        for at in range(0, len(all_of_it), batch_size):
            indices = all_of_it[at : at + batch_size]
            ids, _, _, pixels = data[indices]
            inputs = model_inputs(model, ids[:, :prompt].to(device), pixels.to(device))
            new = model.generate(inputs, max_new_tokens, eos_token_id=end)[:, prompt:]
            for i, text in zip(indices, data.tokenizer.batch_decode(new, skip_special_tokens=True), strict=True):
                answers[i] = text.strip()
    model.train(was_training)
    return answers


def answer_accuracy(model: MambaVLM, data: Instructions, max_new_tokens: int = 32) -> dict[str, float]:
    """Part of the first questions whose generated answer is the true one, letter by letter but for case."""
    given = generate_answers(model, data, max_new_tokens)
    right = sum(a.lower() == s.answer.strip().lower() for a, s in zip(given, data.samples, strict=True))
    return {"accuracy": right / max(1, len(data))}


def _read(path: Path) -> list[Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; visual instructions are a JSON file in LLaVA's layout")
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{path} must hold a list of conversations, got {type(entries).__name__}")
    return entries


def _turns(entry: Any, where: str) -> list[str]:
    """Texts of a conversation, questions and answers in turn."""
    turns = entry.get("conversations") if isinstance(entry, Mapping) else None
    if not isinstance(turns, list) or len(turns) < 2 or len(turns) % 2:
        raise ValueError(f"{where} must have 'conversations', questions and answers in turn")
    for i, turn in enumerate(turns):
        speaker = ("human", "gpt")[i % 2]
        if not isinstance(turn, Mapping) or turn.get("from") != speaker or not isinstance(turn.get("value"), str):
            raise ValueError(f"{where}: turn {i} must be {{'from': '{speaker}', 'value': text}}, got {turn!r}")
    return [turn["value"].strip() for turn in turns]
