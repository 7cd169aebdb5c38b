"""From Transformer to Mamba: calibration and subcloning to start, multi-directional distillation to learn."""

from transmamba.distill.attention_start import check_mixers
from transmamba.distill.calibration import Calibration, resample_tokens
from transmamba.distill.distiller import DistillConfig, Distiller
from transmamba.distill.layer_map import layer_map
from transmamba.distill.llava import subclone_llava
from transmamba.distill.report import SubcloneReport, SubcloneRow
from transmamba.distill.subcloning import SubcloneConfig, subclone
from transmamba.distill.taps import Taps

__all__ = [
    "Calibration",
    "DistillConfig",
    "Distiller",
    "SubcloneConfig",
    "SubcloneReport",
    "SubcloneRow",
    "Taps",
    "check_mixers",
    "layer_map",
    "resample_tokens",
    "subclone",
    "subclone_llava",
]
