"""A Mamba language model, as published and with a Llama's gated MLPs, that generates from constant-size states.

Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces" (https://arxiv.org/abs/2312.00752).
State-dict names are those of the published checkpoints of state-spaces; those of transformers' copies load as well.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from transmamba.layers import Mamba, TransMambaBlock, create_norm
from transmamba.layers.checks import positive_int, ratio_of_mlp, token_ids, tokens_of_width
from transmamba.models.initialisation import initialise_blocks
from transmamba.models.registry import register_model
from transmamba.models.sampling import check_sampling, sample
from transmamba.models.student import Student, run_block

if TYPE_CHECKING:
    from transmamba.distill.taps import Taps


@dataclasses.dataclass(frozen=True)
class MambaLMConfig:
    """Shape of a Mamba language model. The defaults are the published mamba-130m.

    Attributes:
        vocab_size: Tokens of the tokenizer.
        pad_vocab_size_multiple: The embedding has so many rows that this divides them; the rest is never generated.
        d_model, depth: Width of the tokens and number of blocks.
        d_state, d_conv, expand: Of the mixers.
        mlp_ratio: Hidden units of the MLP over ``d_model``; 0 for no MLP, as published.
        mlp: ``"swiglu"``, which a Llama's weights fit into, or ``"gelu"``.
        norm, norm_eps: ``"rms"`` (published, and Llama's) or ``"layer"``.
        tie_embeddings: Read the head's weights from the embedding, as published.
        bias: Whether the outer projections of the mixers have a bias; the published ones do not.
    """

    vocab_size: int = 50277
    pad_vocab_size_multiple: int = 8
    d_model: int = 768
    depth: int = 24
    d_state: int = 16
    d_conv: int = 4
    expand: int = 2
    mlp_ratio: float = 0.0
    mlp: str = "swiglu"
    norm: str = "rms"
    norm_eps: float = 1e-5
    tie_embeddings: bool = True
    bias: bool = False

    def __post_init__(self) -> None:
        positive_int(vocab_size=self.vocab_size, pad_vocab_size_multiple=self.pad_vocab_size_multiple)
        positive_int(d_model=self.d_model, depth=self.depth)
        ratio_of_mlp(self.mlp_ratio)

    @property
    def d_hidden(self) -> int:
        """Hidden units of each MLP."""
        return round(self.mlp_ratio * self.d_model)

    @property
    def num_classes(self) -> int:
        """Rows of the embedding, which is what the logits are over."""
        return -(-self.vocab_size // self.pad_vocab_size_multiple) * self.pad_vocab_size_multiple


@dataclasses.dataclass
class InferenceParams:
    """States of all layers after ``seqlen_offset`` tokens, with the attributes of mamba_ssm's class of this name.

    Attributes:
        seqlen_offset: Tokens seen; 0 starts anew.
        key_value_memory_dict: Layer to ``(conv_state, ssm_state)``, updated in place.
    """

    seqlen_offset: int = 0
    key_value_memory_dict: dict[int, tuple[Tensor, Tensor]] = dataclasses.field(default_factory=dict)


class MambaLM(Student):
    """Embedding, blocks, norm, tied head: token ids ``(batch, length)`` to logits ``(batch, length, vocabulary)``."""

    outside: ClassVar[dict[str, str]] = {
        "backbone.embedding.weight": "embedding",
        "backbone.norm_f.weight": "final_norm_weight",
        "backbone.norm_f.bias": "final_norm_bias",
        "lm_head.weight": "head_weight",
    }

    def __init__(self, config: MambaLMConfig):
        super().__init__()
        self.config = config
        self.name = "mamba_130m"
        self.grid = None
        self.directions = Mamba.directions
        self.layer_names = [f"backbone.layers.{i}" for i in range(config.depth)]
        self.backbone = _Backbone(config)
        self.lm_head = nn.Linear(config.d_model, config.num_classes, bias=False)
        if config.tie_embeddings:
            self.lm_head.weight = self.backbone.embedding.weight
        else:
            nn.init.normal_(self.lm_head.weight, std=0.02)
        self.register_load_state_dict_pre_hook(_accept_other_names)

    @property
    def head(self) -> nn.Module:  # type: ignore[override]
        """Maps the normalised tokens to logits."""
        return self.lm_head

    def forward(self, input_ids: Tensor, inference_params: InferenceParams | None = None) -> Tensor:
        """Return the logits of the token behind each token.

        With ``inference_params`` the sequence goes on from its states, which are created at offset 0 and updated in
        place; the caller advances the offset.
        """
        return self.lm_head(self.forward_features(input_ids, inference_params=inference_params))

    def forward_features(
        self,
        input_ids: Tensor,
        taps: Taps | None = None,
        inference_params: InferenceParams | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        """Return the normalised tokens under the head, ``(batch, length, d_model)``, for ids ``(batch, length)``.

        ``taps`` receives every block's output; its one direction is that output. ``inputs_embeds``, of the result's
        shape, stands for the embedding of the ids, which are not looked at then.
        """
        if inputs_embeds is not None:
            tokens_of_width(inputs_embeds, self.config.d_model)
            return self.backbone(inputs_embeds, taps, inference_params)
        token_ids(input_ids)
        return self.backbone(self.backbone.embedding(input_ids), taps, inference_params)

    def allocate_states(self, batch_size: int) -> InferenceParams:
        """Return the states of an empty sequence; those of the scans are kept in float32 at least."""
        params = InferenceParams()
        for i, layer in enumerate(self.backbone.layers):
            mixer: Any = layer.mixer
            conv_state, ssm_state = mixer.allocate_inference_cache(batch_size, 0)
            wide = torch.promote_types(ssm_state.dtype, torch.float32)
            params.key_value_memory_dict[i] = conv_state, ssm_state.to(wide)
        return params

    @torch.no_grad()
    def generate(
        self,
        input_ids: Tensor,
        max_new_tokens: int,
        *,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        eos_token_id: int | None = None,
        generator: torch.Generator | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        """Continue the prompt: one scan over all of it, then one step per token, at a cost that does not grow.

        Args:
            input_ids: The prompt, ``(batch, length)``, at least one token.
            max_new_tokens: How many tokens to add at most.
            temperature: Of the sampling; 0 takes the likeliest token.
            top_k: Sample among the so many likeliest tokens.
            top_p: Sample among the likeliest tokens that hold this much of the probability together.
            eos_token_id: A sequence ends with this token and is filled up with it.
            generator: Source of the randomness.
            inputs_embeds: What the prompt's ids stand for, ``(batch, length, d_model)``, where that is not all text.

        Returns:
            Prompt and continuation, ``(batch, length + new)``.

        Raises:
            ValueError, TypeError: An argument is out of its range; the message names it.
        """
        check_sampling(temperature, top_k, top_p)
        positive_int(max_new_tokens=max_new_tokens)
        if not isinstance(input_ids, Tensor) or input_ids.dim() != 2 or input_ids.shape[1] < 1:
            raise ValueError("input_ids must be a tensor (batch, length) of at least one token")
        params = self.allocate_states(input_ids.shape[0])
        finished = torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)
        tokens, latest = input_ids, input_ids
        for _ in range(max_new_tokens):
            feature = self.forward_features(latest, None, params, inputs_embeds)[:, -1]
            inputs_embeds = None
            params.seqlen_offset += latest.shape[1]
            logits = self.lm_head(feature)[:, : self.config.vocab_size]
            chosen = sample(logits, temperature, top_k, top_p, generator).to(tokens.dtype)
            if eos_token_id is not None:
                chosen = torch.where(finished, eos_token_id, chosen)
                finished |= chosen == eos_token_id
            latest = chosen.unsqueeze(1)
            tokens = torch.cat([tokens, latest], dim=1)
            if eos_token_id is not None and finished.all():
                break
        return tokens


class _Backbone(nn.Module):
    """Everything but the head, as the published checkpoints have it."""

    def __init__(self, config: MambaLMConfig):
        super().__init__()
        self.embedding = nn.Embedding(config.num_classes, config.d_model)
        nn.init.normal_(self.embedding.weight, std=0.02)
        blocks = [
            TransMambaBlock(
                Mamba(config.d_model, config.d_state, config.d_conv, config.expand, bias=config.bias, layer_idx=i),
                config.d_hidden,
                config.norm,
                config.norm_eps,
                mlp=config.mlp,
            )
            for i in range(config.depth)
        ]
        initialise_blocks(blocks)
        self.layers = nn.ModuleList(blocks)
        self.norm_f = create_norm(config.norm, config.d_model, config.norm_eps)

    def forward(self, x: Tensor, taps: Taps | None, inference_params: InferenceParams | None) -> Tensor:
        for i, layer in enumerate(self.layers):
            if inference_params is None:
                x = run_block(layer, x, i, taps)
            else:
                x = layer(x, inference_params=inference_params)
        return self.norm_f(x.to(self.norm_f.weight.dtype))


def _accept_other_names(module: MambaLM, state: dict[str, Any], prefix: str, *_unused: Any) -> None:
    """Take transformers' name of the embedding, and a checkpoint that holds tied weights once."""
    theirs, ours, head = (f"{prefix}{n}.weight" for n in ("backbone.embeddings", "backbone.embedding", "lm_head"))
    if theirs in state:
        state[ours] = state.pop(theirs)
    if module.config.tie_embeddings and head not in state and ours in state:
        state[head] = state[ours]


for _name, _d, _depth in (
    ("130m", 768, 24),
    ("370m", 1024, 48),
    ("790m", 1536, 48),
    ("1.4b", 2048, 48),
    ("2.8b", 2560, 64),
):
    register_model(f"mamba_{_name}", MambaLM, MambaLMConfig(d_model=_d, depth=_depth))

# With an MLP a block holds what a Llama's block holds. Widths, depths and vocabularies are those of SmolLM2-135M,
# SmolLM2-360M and Llama-3.2-1B.
_WITH_MLP = MambaLMConfig(vocab_size=49152, d_model=576, depth=30, mlp_ratio=8 / 3)
register_model("transmamba_lm_tiny", MambaLM, _WITH_MLP)
register_model("transmamba_lm_small", MambaLM, dataclasses.replace(_WITH_MLP, d_model=960, depth=32))
register_model("transmamba_lm_base", MambaLM, MambaLMConfig(vocab_size=128256, d_model=2048, depth=16, mlp_ratio=4.0))
# For bytes.
register_model("transmamba_lm_micro", MambaLM, MambaLMConfig(vocab_size=256, d_model=64, depth=4, mlp_ratio=2.0))
