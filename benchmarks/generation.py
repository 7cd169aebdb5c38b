"""Time and memory of a generated token on the CPU, beside a Llama of ``transformers`` with its cache.

The teacher has SmolLM2-135M's architecture; one student has as many parameters, the other as many layers. Weights are
random, and so is what states and caches hold of the context: neither changes the work. ``python -m
benchmarks.generation`` takes all of them in turn on one thread and writes ``benchmarks/results/generation.json``.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import transformers

from benchmarks.machine import machine_record
from benchmarks.rows import Measurements, Row
from transmamba.models import MambaLM, create_model

RESULTS = Path(__file__).parent / "results" / "generation.json"
CONTEXTS = (128, 1024, 4096)
# Of the student of the teacher's size.
TARGETS = {128: 1.0, 4096: 1.3}
SMOLLM2 = {
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}
Step = Callable[[], object]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--tokens", type=int, default=4, help="generated per round")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**SMOLLM2)
    teacher = transformers.LlamaForCausalLM(config).eval()
    students = [create_model("transmamba_lm_tiny", depth=depth).eval() for depth in (22, 30)]
    variants: dict[tuple[str, int], Step] = {}
    memory: dict[tuple[str, int], int] = {}
    for context in CONTEXTS:
        for kind in ("growing", "static"):
            key = f"Llama, {_size(teacher)}, {kind} cache", context
            variants[key], memory[key] = llama(teacher, context, kind)
        for student in students:
            assert isinstance(student, MambaLM)
            key = f"MambaLM, {_size(student)}", context
            variants[key], memory[key] = mamba(student, context)
    seconds = in_turn(variants, options.rounds, options.tokens)

    found = Measurements()
    growing, static, *ours = dict.fromkeys(name for name, _ in variants)
    for name in ours:
        for peer in (growing, static):
            for context in CONTEXTS:
                target = TARGETS.get(context) if name == ours[0] else None
                value = seconds[peer, context] / seconds[name, context]
                found.add(Row("generation", _case(context), "time of a token", name, peer, value, target=target))
    for name in (growing, static, *ours):
        for context in CONTEXTS:
            case = _case(context)
            found.add(Row("generation", case, "time of a token", name, "-", 1e3 * seconds[name, context], "ms"))
            found.add(Row("generation", case, "states or cache", name, "-", memory[name, context] / 1e6, "MB"))
    for line in found.lines():
        print(line)
    found.save(options.output, machine_record(options.rounds))
    return 0


def llama(model: transformers.LlamaForCausalLM, context: int, kind: str) -> tuple[Step, int]:
    """One step behind ``context`` cached tokens, and the bytes of that cache.

    A growing cache, the default of ``transformers``, is copied for every token; a static one is allocated once, here
    no longer than it has to be.
    """
    config = model.config
    heads, width = config.num_key_value_heads, config.hidden_size // config.num_attention_heads
    static = kind == "static"
    cache = (
        transformers.StaticCache(config=config, max_cache_len=context + 1)
        if static
        else transformers.DynamicCache(config=config)
    )
    for layer in range(config.num_hidden_layers):
        cache.update(torch.randn(1, heads, context, width), torch.randn(1, heads, context, width), layer)
    size = 2 * config.num_hidden_layers * heads * width * context * torch.float32.itemsize
    latest = torch.zeros(1, 1, dtype=torch.long)

    @torch.no_grad()
    def step() -> None:
        latest.copy_(model(latest, past_key_values=cache, use_cache=True).logits[:, -1:].argmax(-1))
        if not static:
            cache.crop(-1)
            return
        for layer in cache.layers:
            layer.cumulative_length.sub_(1)

    return step, size


def mamba(model: MambaLM, context: int) -> tuple[Step, int]:
    """One step from the states after ``context`` tokens, and the bytes of these states."""
    states = model.allocate_states(1)
    states.seqlen_offset = context
    tensors = [tensor.normal_() for pair in states.key_value_memory_dict.values() for tensor in pair]
    latest = torch.zeros(1, 1, dtype=torch.long)

    @torch.no_grad()
    def step() -> None:
        latest.copy_(model(latest, states)[:, -1:].argmax(-1))

    return step, sum(tensor.nbytes for tensor in tensors)


def in_turn(variants: dict[tuple[str, int], Step], rounds: int, tokens: int) -> dict[tuple[str, int], float]:
    """Median processor seconds of a token: every variant generates a few tokens in each round."""
    seconds: dict[tuple[str, int], list[float]] = {name: [] for name in variants}
    for step in variants.values():
        step()
    for _ in range(rounds):
        for name, step in variants.items():
            began = time.process_time()
            for _ in range(tokens):
                step()
            seconds[name].append((time.process_time() - began) / tokens)
    return {name: statistics.median(values) for name, values in seconds.items()}


def _size(model: torch.nn.Module) -> str:
    return f"{sum(p.numel() for p in model.parameters()) / 1e6:.0f}M"


def _case(context: int) -> str:
    return f"{context} tokens of context"


if __name__ == "__main__":
    sys.exit(main())
