"""One run from data to report, and what can be asked of its model afterwards."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from transmamba.adapt import usable_device
from transmamba.checkpoint import file_hash, versions
from transmamba.config import OptimConfig, digest, identity, to_dict
from transmamba.files import write_text
from transmamba.models import WithText, create_model, load_pretrained, save_pretrained, with_text
from transmamba.models.pretrained import WEIGHTS
from transmamba.run_folder import METRICS, METRICS_FORMAT, STAGES, STUDENT, TOKENIZER, claim, read_run, student_folder
from transmamba.tasks.questions import EncodedQuestions, build_tokenizer, encode, normalise, read_image
from transmamba.tasks.vqa import (
    VqaData,
    accuracies,
    blind_baselines,
    load_vqa,
    other_questions,
    predict,
    question_pairs,
)
from transmamba.train import Plan, Trainer, Watcher, plain
from transmamba.vqa.config import VqaConfig
from transmamba.vqa.report import write_report


@dataclasses.dataclass
class Run:
    """A run whose options were found good; see :func:`prepare`.

    Attributes:
        config, data: What was asked for.
        tokenizer: Of the words in the training questions.
        model: As the training starts.
        finished: The content of its metrics file when there is nothing left to do, else None.
    """

    config: VqaConfig
    data: VqaData
    tokenizer: Any
    model: WithText
    finished: dict[str, Any] | None


def prepare(config: VqaConfig, overwrite: bool = False) -> Run:
    """Check everything that can be checked before work begins, and make the run's folder.

    Args:
        overwrite: Remove what an earlier run left in the folder.

    Raises:
        ValueError, TypeError, FileNotFoundError, ImportError: An option is wrong, does not fit the others, or needs
            what is not there.
        FileExistsError: The folder holds another run, or something else; the message says what differs.
    """
    device = usable_device(config.device)
    data = load_vqa(config.data, config.data_dir, config.images, config.image_size, config.seed)
    tokenizer = build_tokenizer(data.train.texts)
    model = _create_model(config, len(data.answers), tokenizer.get_vocab_size()).to(device)
    return Run(config, data, tokenizer, model, claim(config, overwrite))


def train(run: Run, watcher: Watcher | None = None) -> dict[str, Any]:
    """Do what is left of ``run`` and return its metrics, which are also in its folder.

    Raises:
        TrainingError, Interrupted, CheckpointError, OSError: As of :class:`transmamba.train.Trainer`.
    """
    config, data, model, folder = run.config, run.data, run.model, run.config.folder
    if run.finished is not None:
        return run.finished
    asked, test = (EncodedQuestions(part, run.tokenizer) for part in (data.train, data.test))

    def loss(images: Tensor, ids: Tensor, mask: Tensor, answers: Tensor) -> Tensor:
        return F.cross_entropy(model(images, ids, mask), answers, label_smoothing=config.optim.label_smoothing)

    def measure() -> dict[str, float]:
        return accuracies(predict(model, test), data.test)

    started = None if config.start is None else file_hash(student_folder(config.start) / WEIGHTS)
    shared = {name: getattr(config, name) for name in ("epochs", "batch_size", "seed", "optim", "precision")}
    plan = Plan("vqa", asked, origin=digest([identity(to_dict(config)), started]), **shared)
    trainer = Trainer(plan, model, plain(loss), measure, folder / STAGES / "vqa.pt", watcher)
    trainer.run()
    predicted = predict(model, test)
    save_pretrained(model, folder / STUDENT)
    write_text(folder / TOKENIZER, run.tokenizer.to_str(pretty=True))
    metrics = {
        "format": METRICS_FORMAT,
        "config": to_dict(config),
        "data": {
            f"{name}_{unit}": len(part if unit == "questions" else part.images)
            for name, part in (("train", data.train), ("test", data.test))
            for unit in ("images", "questions")
        },
        "answers": data.answers,
        "results": {
            **evaluate(model, data, run.tokenizer, predicted),
            "parameters": sum(p.numel() for p in model.parameters()),
            "steps": plan.steps,
            "seconds": trainer.seconds,
            "history": trainer.history,
        },
        "versions": versions(),
    }
    write_report(folder, metrics, data, predicted)
    return metrics


def evaluate(model: WithText, data: VqaData, tokenizer: Any, predicted: Tensor | None = None) -> dict[str, Any]:
    """Accuracy on the test part, in all and by kind of question (``kinds``), and what it is worth.

    ``same_image``: of two questions about one image that have different answers, how often both are answered right.
    ``shuffled_questions``: accuracy when each image is asked what was meant for another.
    ``majority``, ``question_only``: see :func:`transmamba.tasks.vqa.blind_baselines`.

    Args:
        predicted: The model's answers to the test questions, where they are there already.
    """
    test = data.test
    if predicted is None:
        predicted = predict(model, EncodedQuestions(test, tokenizer))
    shuffled = predict(model, EncodedQuestions(test, tokenizer, other_questions(test)))
    pairs, reached = question_pairs(test), accuracies(predicted, test)
    return {
        "accuracy": reached.pop("accuracy"),
        "kinds": reached,
        "same_image": (predicted[pairs] == test.answers[pairs]).all(1).double().mean().item(),
        "shuffled_questions": accuracies(shuffled, test)["accuracy"],
        **blind_baselines(data),
    }


@dataclasses.dataclass(frozen=True)
class Answerer:
    """The model of a finished run, with what it takes to ask it.

    Attributes:
        model: In eval mode.
        config: The run's options.
        tokenizer, answers: Of its data.
    """

    model: WithText
    config: VqaConfig
    tokenizer: Any
    answers: list[str]

    @classmethod
    def load(cls, folder: str | Path) -> Answerer:
        """Load what :func:`train` left in ``folder``.

        Raises:
            FileNotFoundError: It holds no finished run of visual question answering.
            ValueError: A file is damaged.
        """
        from tokenizers import Tokenizer

        folder, options = Path(folder), read_run(folder)
        if not (folder / METRICS).is_file() or not (folder / TOKENIZER).is_file():
            raise FileNotFoundError(f"{folder} holds no finished run of `transmamba vqa`")
        answers = json.loads((folder / METRICS).read_text(encoding="utf-8"))["answers"]
        config = VqaConfig(**{**options, "optim": OptimConfig(**options["optim"])})
        model: Any = load_pretrained(folder / STUDENT)
        return cls(model, config, Tokenizer.from_file(str(folder / TOKENIZER)), answers)

    @torch.no_grad()
    def ask(self, image: str | Path, question: str) -> list[tuple[str, float]]:
        """All answers to ``question`` about the image file, with their probabilities, the likeliest first.

        Raises:
            FileNotFoundError, ValueError: The image is missing or none, or the question is empty or too long.
        """
        if not question.strip():
            raise ValueError("question must not be empty")
        pixels = normalise(read_image(image, self.config.image_size)).unsqueeze(0)
        inputs = (pixels, *encode(self.tokenizer, [question]))
        device = next(self.model.parameters()).device
        probabilities = self.model(*(tensor.to(device) for tensor in inputs)).softmax(-1)[0]
        ranked = probabilities.argsort(descending=True).tolist()
        return [(self.answers[i], probabilities[i].item()) for i in ranked]

    def unknown_words(self, question: str) -> list[str]:
        """Words of ``question`` that no training question has."""
        known = self.tokenizer.get_vocab()
        words = self.tokenizer.pre_tokenizer.pre_tokenize_str(self.tokenizer.normalizer.normalize_str(question))
        return [word for word, _ in words if word not in known]


def _create_model(config: VqaConfig, answers: int, words: int) -> WithText:
    """The model of ``config`` as its training starts, the same for the same seed."""
    torch.manual_seed(config.seed)
    text: Any = create_model("transmamba_text_micro", **{**config.text_options, "vocab_size": words})
    fits = {"image_size": config.image_size, "in_channels": 3, "num_classes": answers}
    if config.start is None:
        student: Any = create_model(config.student, **{**config.student_options, **fits})
    else:
        student = _with_new_head(config.start, fits)
    if len(student.grid or ()) != 2:
        raise ValueError(f"student {student.name} does not take images one at a time")
    options = {name: getattr(config, name) for name in ("mode", "text_delta", "layers", "d_state")}
    return with_text(student, text, **options)


def _with_new_head(folder: str, fits: dict[str, int]) -> Any:
    """The student saved in ``folder`` with a head for other classes."""
    trained: Any = load_pretrained(student_folder(folder))
    for name in ("image_size", "in_channels"):
        if (found := getattr(trained.config, name, None)) != fits[name]:
            hint = ": give --image-size" if name == "image_size" else ""
            raise ValueError(f"the student in {folder} has {name} {found}, the data {fits[name]}{hint}")
    student: Any = create_model(trained.name, **{**dataclasses.asdict(trained.config), **fits})
    head = {id(tensor) for tensor in student.head.parameters()}
    fresh = {name for name, tensor in student.named_parameters() if id(tensor) in head}
    state = {name: tensor for name, tensor in trained.state_dict().items() if name not in fresh}
    student.load_state_dict(state, strict=False)
    return student
