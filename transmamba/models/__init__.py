"""Students: the models a Transformer is turned into."""

from transmamba.models import vim as _vim  # noqa: F401  (its models register themselves)
from transmamba.models.pretrained import load_pretrained, save_pretrained
from transmamba.models.registry import create_model, list_models, register_model
from transmamba.models.roles import Role
from transmamba.models.vim import Vim, VimConfig

__all__ = [
    "Role",
    "Vim",
    "VimConfig",
    "create_model",
    "list_models",
    "load_pretrained",
    "register_model",
    "save_pretrained",
]
