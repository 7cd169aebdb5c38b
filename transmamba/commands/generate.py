"""``transmamba generate``: text from a saved language model."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import torch
import tyro
from rich.console import Console

from transmamba.adapt import usable_device
from transmamba.commands.parsing import BadInputError, parse, refusing, use_threads
from transmamba.models import MambaLM, load_pretrained
from transmamba.run_folder import student_folder
from transmamba.tasks.text import load_tokenizer


@dataclasses.dataclass(frozen=True)
class GenerateOptions:
    """Go on with a text.

    Attributes:
        folder: Folder of a language model that `transmamba adapt` made, or of its run.
        prompt: The beginning of the text.
        max_new_tokens: How many tokens to add at most.
        temperature: Of the sampling; 0 takes the likeliest token.
        top_k: Sample among the so many likeliest tokens.
        top_p: Sample among the likeliest tokens that hold this much of the probability together.
        seed: Of the sampling.
        threads: CPU threads; torch's choice if not given.
        device: Where to compute, such as "cpu" or "cuda".
    """

    folder: Annotated[Path, tyro.conf.Positional]
    prompt: Annotated[str, tyro.conf.Positional]
    max_new_tokens: int = 50
    temperature: float = 0.8
    top_k: int | None = 50
    top_p: float | None = None
    seed: int = 0
    threads: int | None = None
    device: str = "cpu"


def run(arguments: list[str], console: Console) -> int:
    """Print the prompt and what the model makes of it."""
    options = parse(GenerateOptions, arguments, "generate")
    use_threads(options.threads)
    with refusing():
        folder = student_folder(options.folder)
        model, tokenizer, device = load_pretrained(folder), load_tokenizer(folder), usable_device(options.device)
        if not isinstance(model, MambaLM):
            raise BadInputError(f"{folder} holds {model.name}, which is no language model")
        ids = tokenizer(options.prompt, add_special_tokens=False, return_tensors="pt")["input_ids"]
        model.to(device)
        tokens = model.generate(
            ids.to(device),
            options.max_new_tokens,
            temperature=options.temperature,
            top_k=options.top_k,
            top_p=options.top_p,
            eos_token_id=tokenizer.eos_token_id,
            generator=torch.Generator(device).manual_seed(options.seed),
        )
    text = tokenizer.decode(tokens[0], skip_special_tokens=True)
    console.print(text, highlight=False, soft_wrap=True, markup=False)
    return 0
