"""Text-video retrieval: a CLIP turned into two Mamba towers that see videos as a whole."""

from transmamba.retrieve.config import PRESETS, ClipConfig, RetrieveConfig
from transmamba.retrieve.retriever import Retriever
from transmamba.retrieve.run import prepare, retrieve

__all__ = ["PRESETS", "ClipConfig", "RetrieveConfig", "Retriever", "prepare", "retrieve"]
