"""Turn a pre-trained Transformer into a Mamba: layers, students, teachers and the distillation between them."""

__version__ = "0.1.0"
