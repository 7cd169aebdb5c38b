"""A bidirectional Mamba that encodes text: blocks that a BERT's or CLIP text tower's weights fit into.

The mixers are those of Zhu et al., "Vision Mamba" (https://arxiv.org/abs/2401.09417), here along a sentence; pooling is
that of Reimers and Gurevych, "Sentence-BERT" (https://arxiv.org/abs/1908.10084), or of CLIP.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from transmamba.layers import create_norm
from transmamba.layers.checks import int_from_zero, positive_int, ratio_of_mlp, token_ids
from transmamba.models.initialisation import initialise_blocks, initialise_tokens
from transmamba.models.registry import register_model
from transmamba.models.student import Student, run_block
from transmamba.models.vim import bidirectional_blocks

if TYPE_CHECKING:
    from transmamba.distill.taps import Taps

POOLINGS = ("mean", "last")


@dataclasses.dataclass(frozen=True)
class MambaTextEncoderConfig:
    """Shape of a text encoder. The defaults are those of all-MiniLM-L6-v2.

    Attributes:
        vocab_size: Tokens of the tokenizer.
        max_length: Rows of the table of positions.
        token_types: Rows of BERT's table of token types, of which the first is added to every token; 0 for none.
        embedding_norm: Normalise the embedded tokens, as BERT does and CLIP does not.
        d_model, depth: Width of the tokens and number of blocks.
        d_state, d_conv, expand: Of the mixers.
        mlp_ratio: Hidden units of the MLP over ``d_model``; 0 for no MLP.
        norm, norm_eps: ``"layer"``, which a BERT's norms can be copied into, or ``"rms"``.
        pooling: What the embedding of a sentence is: the ``"mean"`` over its tokens, or its ``"last"`` token, which is
            CLIP's end of text.
        if_divide_out: Halve the sum of the two directions.
        bias: Whether the outer projections of the mixers have a bias.
    """

    vocab_size: int = 30522
    max_length: int = 512
    token_types: int = 2
    embedding_norm: bool = True
    d_model: int = 384
    depth: int = 6
    d_state: int = 16
    d_conv: int = 4
    expand: int = 2
    mlp_ratio: float = 4.0
    norm: str = "layer"
    norm_eps: float = 1e-12
    pooling: str = "mean"
    if_divide_out: bool = True
    bias: bool = False

    def __post_init__(self) -> None:
        positive_int(vocab_size=self.vocab_size, max_length=self.max_length, d_model=self.d_model, depth=self.depth)
        int_from_zero(token_types=self.token_types)
        ratio_of_mlp(self.mlp_ratio)
        if self.pooling not in POOLINGS:
            raise ValueError(f"pooling must be one of {', '.join(POOLINGS)}, got {self.pooling!r}")

    @property
    def d_hidden(self) -> int:
        """Hidden units of each MLP."""
        return round(self.mlp_ratio * self.d_model)

    @property
    def num_classes(self) -> int:
        """0: it has no logits, and its head only pools."""
        return 0


class MambaTextEncoder(Student):
    """Embeddings, blocks, norm, pooling: token ids ``(batch, length)`` to sentence embeddings ``(batch, d_model)``."""

    outside: ClassVar[dict[str, str]] = {
        "embedding.weight": "embedding",
        "pos_embed": "position",
        "token_type.weight": "token_type",
        "norm_e.weight": "embedding_norm_weight",
        "norm_e.bias": "embedding_norm_bias",
        "norm_f.weight": "final_norm_weight",
        "norm_f.bias": "final_norm_bias",
    }

    def __init__(self, config: MambaTextEncoderConfig):
        super().__init__()
        self.config = config
        self.name = "transmamba_text_small"
        self.grid = None
        d = config.d_model
        self.embedding = nn.Embedding(config.vocab_size, d)
        self.pos_embed = nn.Parameter(torch.zeros(1, config.max_length, d))
        self.token_type = nn.Embedding(config.token_types, d) if config.token_types else None
        self.norm_e = create_norm(config.norm, d, config.norm_eps) if config.embedding_norm else None
        blocks = bidirectional_blocks(config)
        self.layers = nn.ModuleList(blocks)
        self.layer_names = [f"layers.{i}" for i in range(config.depth)]
        self.directions = blocks[0].directions
        self.norm_f = create_norm(config.norm, d, config.norm_eps)
        self.head = Pooling(config.pooling)
        initialise_tokens(self.pos_embed)
        for table in (self.embedding, self.token_type):
            if table is not None:
                nn.init.normal_(table.weight, std=0.02)
        initialise_blocks(blocks)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Return the embedding of each sentence, ``(batch, d_model)``, of length 1.

        For tokens and embedding at the cost of one pass hand the result of :meth:`forward_features` to ``head``.

        Args:
            input_ids: ``(batch, length)``.
            attention_mask: As a tokenizer gives it: 0 or False where a token is padding, at either end.
        """
        return self.head(self.forward_features(input_ids, attention_mask=attention_mask), attention_mask)

    def forward_features(
        self, input_ids: Tensor, taps: Taps | None = None, attention_mask: Tensor | None = None
    ) -> Tensor:
        """Return the normalised tokens ``(batch, length, d_model)``; those at padding mean nothing.

        ``taps`` receives every block's output, and each direction's if it wants them, padding included.
        """
        token_ids(input_ids, self.config.max_length)
        mask = None if attention_mask is None else attention_mask.bool()
        x = self.embedding(input_ids) + self._positions(mask, input_ids.shape[1])
        if self.token_type is not None:
            x = x + self.token_type.weight[0]
        if self.norm_e is not None:
            x = self.norm_e(x)
        for i, layer in enumerate(self.layers):
            x = run_block(layer, x, i, taps, mask=mask)
        return self.norm_f(x.to(self.norm_f.weight.dtype))

    def _positions(self, mask: Tensor | None, length: int) -> Tensor:
        """Rows of the position table: a sentence begins with its first token, not with padding before it."""
        if mask is None:
            return self.pos_embed[:, :length]
        return self.pos_embed[0, (mask.cumsum(1) - 1).clamp(min=0)]


class Pooling(nn.Module):
    """One vector of length 1 for each sentence of normalised tokens; it has no parameters."""

    def __init__(self, kind: str):
        super().__init__()
        self.kind = kind

    def forward(self, tokens: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Pool ``(batch, length, d)`` to ``(batch, d)``, without the tokens whose ``attention_mask`` is 0 or False."""
        if attention_mask is None:
            attention_mask = tokens.new_ones(tokens.shape[:2])
        if self.kind == "mean":
            # The sum instead of the mean: its length is lost anyway.
            pooled = tokens.masked_fill(attention_mask.unsqueeze(-1) == 0, 0.0).sum(1)
        else:
            last = attention_mask.cumsum(1).argmax(1)
            pooled = tokens[torch.arange(len(tokens), device=tokens.device), last]
        return F.normalize(pooled, dim=-1)


# Widths and depths of BERT-Mini, all-MiniLM-L6-v2 and BERT-base.
register_model("transmamba_text_tiny", MambaTextEncoder, MambaTextEncoderConfig(d_model=256, depth=4))
register_model("transmamba_text_small", MambaTextEncoder, MambaTextEncoderConfig())
register_model("transmamba_text_base", MambaTextEncoder, MambaTextEncoderConfig(d_model=768, depth=12))
# For a small vocabulary and short questions.
_MICRO = MambaTextEncoderConfig(vocab_size=256, max_length=64, token_types=0, d_model=64, depth=4, mlp_ratio=2.0)
register_model("transmamba_text_micro", MambaTextEncoder, dataclasses.replace(_MICRO, norm_eps=1e-6))
