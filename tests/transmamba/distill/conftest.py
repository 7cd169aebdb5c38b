"""A tiny ViT teacher and the students that go with it, built from configs."""

import pytest
import torch

transformers = pytest.importorskip("transformers")


@pytest.fixture
def make_teacher():
    from transmamba.teachers import create_teacher

    def make(family="ViT", seed=0, **sizes):
        torch.manual_seed(seed)
        defaults = {
            "hidden_size": 16,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "intermediate_size": 24,
            "image_size": 8,
            "patch_size": 2,
            "num_channels": 1,
            "num_labels": 5,
            "layer_norm_eps": 1e-6,
        }
        config = getattr(transformers, f"{family}Config")(**{**defaults, **sizes})
        teacher = create_teacher(config)
        with torch.no_grad():
            # Fresh biases are 0 and fresh norms 1: copies of them would prove nothing.
            for parameter in teacher.model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        return teacher

    return make


@pytest.fixture
def make_student():
    from transmamba.models import create_model

    def make(seed=1, **kwargs):
        torch.manual_seed(seed)
        defaults = {
            "d_model": 16,
            "depth": 3,
            "d_state": 3,
            "mlp_ratio": 1.5,
            "num_classes": 5,
            "class_token": "middle",
        }
        return create_model("transmamba_vim_micro", **{**defaults, **kwargs})

    return make


@pytest.fixture
def images():
    return torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(2))
