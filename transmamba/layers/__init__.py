"""Layers: the Mamba mixers, the block that pairs one with a Transformer's MLP, patch embedding and norms."""

from transmamba.layers.bimamba import BiMamba
from transmamba.layers.block import MLP, GatedMLP, TransMambaBlock
from transmamba.layers.cross_mamba import CrossMamba
from transmamba.layers.mamba import Mamba
from transmamba.layers.norm import RMSNorm, create_norm
from transmamba.layers.patch_embed import PatchEmbed
from transmamba.layers.plain_mamba import PlainMamba2D
from transmamba.layers.ss2d import SS2D

__all__ = [
    "MLP",
    "SS2D",
    "BiMamba",
    "CrossMamba",
    "GatedMLP",
    "Mamba",
    "PatchEmbed",
    "PlainMamba2D",
    "RMSNorm",
    "TransMambaBlock",
    "create_norm",
]
