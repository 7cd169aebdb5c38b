"""Everything a run of visual question answering can be told, checked when it is made, and the presets."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from transmamba.config import PRECISIONS, OptimConfig
from transmamba.layers.checks import int_from_zero, positive_int


@dataclasses.dataclass(frozen=True)
class VqaConfig:
    """One training: questions, a student, how a text takes part in it, and how long they learn.

    Attributes:
        data: Data set, "easy-vqa" or "sort-of-clevr".
        data_dir: Folder of the data of easy-VQA, if its package is not installed.
        images: Training images; all if not given.
        image_size: Resize the images to so many pixels.
        student: Name of a visual model, as in transmamba.models.list_models().
        student_options: Options of that model, as NAME VALUE pairs.
        start: Folder of a saved student, or of a run that made one: the model is this one, with a new head.
        mode: What the text gives: "query_pool", "query_attn", "state" or "kv", see transmamba.layers.CrossMamba.
        text_delta: Let the text also decide how much the image's state remembers.
        layers: Behind which blocks the text takes part, counted from 0; all if not given.
        d_state: States per channel of the cross-Mamba layers.
        text_options: Options of the text encoder transmamba_text_micro, as NAME VALUE pairs.
        epochs: Times that each question is seen.
        batch_size: Questions per step.
        precision: "float32", or "bfloat16" for the matrix products and scans; weights stay in float32.
        seed: Of the weights, the order of the questions and of generated images.
        out_dir: Folder of the run; runs/vqa-<data>-seed<seed> if not given.
        threads: CPU threads; torch's choice if not given.
        device: Where to compute, such as "cpu" or "cuda".
        optim: The optimiser.
    """

    data: str = "easy-vqa"
    data_dir: str | None = None
    images: int | None = None
    image_size: int = 64
    student: str = "transmamba_plainmamba_micro"
    student_options: dict[str, int | float | bool | str] = dataclasses.field(default_factory=dict)
    start: str | None = None
    mode: str = "query_pool"
    text_delta: bool = False
    layers: tuple[int, ...] | None = None
    d_state: int = 8
    text_options: dict[str, int | float | bool | str] = dataclasses.field(default_factory=dict)
    epochs: int = 2
    batch_size: int = 64
    precision: str = "float32"
    seed: int = 0
    out_dir: str | None = None
    threads: int | None = None
    device: str = "cpu"
    optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)

    def __post_init__(self) -> None:
        positive_int(epochs=self.epochs, batch_size=self.batch_size, image_size=self.image_size, d_state=self.d_state)
        positive_int(**{n: value for n in ("images", "threads") if (value := getattr(self, n)) is not None})
        int_from_zero(seed=self.seed)
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}")
        if self.start is not None and self.student_options:
            raise ValueError("student_options cannot be changed with start: the student is ready")

    @property
    def folder(self) -> Path:
        """Folder of the run."""
        return Path(self.out_dir) if self.out_dir else Path("runs") / f"vqa-{self.data}-seed{self.seed}"


# A convolution in front of the patches, for edges tell shapes; the last block uses what the text added before it.
_STUDENT: dict[str, int | float | bool | str] = {
    "patch_size": 8,
    "stem": "conv",
    "stem_convs": 0,
    "depth": 3,
    "d_state": 8,
}
_EASY = VqaConfig(
    image_size=32,
    student_options=_STUDENT,
    layers=(0, 1),
    text_options={"d_model": 64, "depth": 1, "d_state": 8},
    epochs=6,
    threads=1,
    optim=OptimConfig(learning_rate=2e-3),
)
PRESETS = {
    "easy-vqa": _EASY,
    "sort-of-clevr": dataclasses.replace(_EASY, data="sort-of-clevr", images=4000, image_size=64, epochs=2),
}
