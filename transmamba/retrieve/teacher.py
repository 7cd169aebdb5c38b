"""The CLIP of a retrieval run: trained once on its clips and kept beside the runs, or a ready one."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from transmamba.config import digest, to_dict
from transmamba.distill.losses import contrastive_loss
from transmamba.retrieve.config import ClipConfig, RetrieveConfig
from transmamba.retrieve.data import VideoData
from transmamba.retrieve.retriever import load_padding_tokenizer, measure
from transmamba.tasks.task import Metric
from transmamba.teach import read_manifest, require_weights, save_parts, write_manifest
from transmamba.teachers import ClipTeacher, create_clip
from transmamba.train import Plan, Trainer, Watcher, plain

FORMAT = "transmamba-clip"
METRIC = Metric("R@1")
_SPECIAL = ("<pad>", "<s>", "<unk>", "</s>")  # transformers looks for another end of text where its id is 2


@dataclasses.dataclass
class TaughtClip:
    """A CLIP that is ready.

    Attributes:
        teacher: It, frozen.
        folder: Where it lies, loadable by transformers.
        origin: ``"trained"``, ``"reused"`` (trained by an earlier run) or ``"given"``.
        measured: As of :func:`transmamba.retrieve.retriever.measure`, on the test data.
        weights_hash: Of both towers' weights.
        seconds: That its training took; 0 for a given one.
    """

    teacher: ClipTeacher
    folder: str
    origin: str
    measured: dict[str, float]
    weights_hash: str
    seconds: float = 0.0


def build_tokenizer(config: ClipConfig, texts: Sequence[str]) -> Any:
    """The tokenizer of ``config``: of the ready CLIP, or one that knows the words of ``texts``."""
    if config.path is not None:
        return load_padding_tokenizer(config.path)
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    pad, begin, unknown, end = _SPECIAL
    words = Tokenizer(models.WordLevel(unk_token=unknown))
    words.normalizer = normalizers.Lowercase()
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.WordLevelTrainer(
        vocab_size=config.vocab_size, special_tokens=list(_SPECIAL), show_progress=False
    )
    words.train_from_iterator(texts, trainer)
    ids = [(token, _SPECIAL.index(token)) for token in (begin, end)]
    words.post_processor = processors.TemplateProcessing(single=f"{begin} $A {end}", special_tokens=ids)
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token=pad, bos_token=begin, unk_token=unknown, eos_token=end
    )


def build_clip(config: RetrieveConfig, tokenizer: Any) -> ClipTeacher:
    """The CLIP of ``config`` before any training.

    Raises:
        ValueError: It does not fit the data; the message says what to change.
        FileNotFoundError, ImportError: As of :func:`transmamba.teachers.create_clip`.
    """
    options = config.teacher
    torch.manual_seed(options.seed)
    if options.path is None:
        return create_clip(_clip_config(config, tokenizer))
    teacher = create_clip(options.path)
    vision, text = teacher.model.config.vision_config, teacher.model.config.text_config
    for name, takes, given in (
        ("image-size", vision.image_size, config.image_size),
        ("channels", vision.num_channels, config.channels),
    ):
        if takes != given:
            raise ValueError(f"the teacher takes --{name} {takes}, got {given}")
    if len(tokenizer) > text.vocab_size:
        raise ValueError(f"the teacher knows {text.vocab_size} tokens, its tokenizer has {len(tokenizer)}")
    return teacher


def max_length(teacher: ClipTeacher) -> int:
    """Tokens of the longest text that ``teacher`` takes."""
    return teacher.model.config.text_config.max_position_embeddings


def normalisation(path: str | None) -> tuple[list[float], list[float]]:
    """Mean and spread of the channels by which a saved CLIP wants its images; 0.5 where it does not say."""
    if path is None:
        return [0.5], [0.5]
    from transformers.image_processing_base import ImageProcessingMixin

    try:
        found, _ = ImageProcessingMixin.get_image_processor_dict(path)
    except OSError:
        found = {}
    return found.get("image_mean", [0.5]), found.get("image_std", [0.5])


def teach_clip(
    config: RetrieveConfig, teacher: ClipTeacher, tokenizer: Any, data: VideoData, watcher: Watcher | None = None
) -> TaughtClip:
    """Return the CLIP of ``config``: given, found beside the runs, or trained and kept there.

    Args:
        teacher: From :func:`build_clip`.

    Raises:
        CheckpointError: The folder holds another one, or its weights are not those that were saved.
    """
    options, device = config.teacher, torch.device(config.device)
    teacher.to(device)
    if options.path is not None:
        return TaughtClip(teacher, options.path, "given", measure(teacher, teacher, data.test), _hash(teacher))
    whole = to_dict(config)
    names = ("data", "train_clips", "test_clips", "frames", "image_size", "channels", "seed", "teacher")
    identity = {name: whole[name] for name in names}
    folder = config.folder.parent / "teachers" / f"{config.data}-clip-{digest(identity)[:10]}"
    if (manifest := read_manifest(folder, FORMAT, "a CLIP")) is not None:
        return _reuse(folder, manifest, device)
    folder.mkdir(parents=True, exist_ok=True)

    def loss(clips: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        each = config.frames // options.frames
        looked_at = torch.arange(0, config.frames, each) + torch.randint(each, (options.frames,))
        text, video = teacher.encode_text(input_ids, attention_mask), teacher.encode_video(clips[:, :, looked_at])
        return contrastive_loss(teacher.scale * text @ video.t())

    plan = Plan(
        stage="teacher",
        train=data.train,
        epochs=options.epochs,
        batch_size=options.batch_size,
        seed=options.seed,
        optim=options.optim,
        origin=digest(identity),
        metric=METRIC,
    )
    test = partial(measure, teacher, teacher.model, data.test)
    trainer = Trainer(plan, teacher.model, plain(loss), test, folder / "teacher.pt", watcher)
    trainer.run()
    teacher.eval()
    save_parts(folder, teacher.model, tokenizer)
    measured = {name: value for name, value in trainer.history[-1].items() if name not in ("step", "epoch", "loss")}
    weights = _hash(teacher)
    content = {"format": FORMAT, "measured": measured, "seconds": trainer.seconds, "weights": weights}
    write_manifest(folder, {**content, "config": identity})
    return TaughtClip(teacher, str(folder), "trained", measured, weights, trainer.seconds)


def _reuse(folder: Path, manifest: dict[str, Any], device: torch.device) -> TaughtClip:
    teacher = create_clip(folder).to(device)
    found = _hash(teacher)
    require_weights(folder, manifest, found)
    return TaughtClip(teacher, str(folder), "reused", manifest["measured"], found, manifest["seconds"])


def _hash(teacher: ClipTeacher) -> str:
    return digest([teacher.vision.weights_hash(), teacher.text.weights_hash(), teacher.model.logit_scale.item()])


def _clip_config(config: RetrieveConfig, tokenizer: Any) -> Any:
    from transformers import CLIPConfig

    options = config.teacher
    if options.patch_size > config.image_size:
        raise ValueError(f"teacher.patch_size must be at most image_size {config.image_size}, got {options.patch_size}")
    shared = {
        "hidden_size": options.hidden_size,
        "intermediate_size": round(options.mlp_ratio * options.hidden_size),
        "num_attention_heads": options.heads,
    }
    return CLIPConfig(
        text_config={
            **shared,
            "num_hidden_layers": options.text_layers,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": options.max_length,
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
        },
        vision_config={
            **shared,
            "num_hidden_layers": options.layers,
            "image_size": config.image_size,
            "patch_size": options.patch_size,
            "num_channels": config.channels,
        },
        projection_dim=options.hidden_size,
    )
