"""One token out of logits: the likeliest, or drawn."""

from __future__ import annotations

import torch
from torch import Tensor


def check_sampling(temperature: float, top_k: int | None, top_p: float | None) -> None:
    """Raise unless the options are in their ranges, see :func:`sample`."""
    if not 0 <= temperature < float("inf"):
        raise ValueError(f"temperature must be 0 (greedy) or positive, got {temperature}")
    if top_k is not None and (isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1):
        raise ValueError(f"top_k must be None or an int of at least 1, got {top_k!r}")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p must be None or above 0 and at most 1, got {top_p}")


def sample(
    logits: Tensor,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw one token per row.

    Args:
        logits: ``(batch, vocabulary)``.
        temperature: Divides the logits; 0 takes the largest.
        top_k: Draw among the so many largest only.
        top_p: Draw among the smallest set of the likeliest that holds this much probability (Holtzman et al., "The
            Curious Case of Neural Text Degeneration", https://arxiv.org/abs/1904.09751), after ``top_k``.
        generator: Source of the randomness.

    Returns:
        Token ids, ``(batch,)``.
    """
    if temperature == 0:
        return logits.argmax(-1)
    logits = logits.float() / temperature
    count = logits.shape[-1] if top_k is None else min(top_k, logits.shape[-1])
    if top_k is None and top_p is None:
        return torch.multinomial(logits.softmax(-1), 1, generator=generator).squeeze(1)
    likeliest, ids = logits.topk(count, dim=-1)
    probabilities = likeliest.softmax(-1)
    if top_p is not None:
        # The token that crosses the threshold belongs to the set: what counts is the sum before it.
        before = probabilities.cumsum(-1) - probabilities
        probabilities = probabilities.masked_fill(before >= top_p, 0.0)
    drawn = torch.multinomial(probabilities, 1, generator=generator)
    return ids.gather(-1, drawn).squeeze(1)
