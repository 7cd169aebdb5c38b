"""Students: the models a Transformer is turned into."""

from transmamba.models.language import InferenceParams, MambaLM, MambaLMConfig
from transmamba.models.multimodal import WithText, WithTextConfig, with_text
from transmamba.models.plainmamba import PlainMamba, PlainMambaConfig
from transmamba.models.pretrained import load_pretrained, save_pretrained
from transmamba.models.registry import create_model, default_config, list_models, register_model
from transmamba.models.roles import Role
from transmamba.models.student import Student
from transmamba.models.text_encoder import MambaTextEncoder, MambaTextEncoderConfig
from transmamba.models.video_text import VideoText, VideoTextConfig
from transmamba.models.videomamba import VideoMamba, VideoMambaConfig
from transmamba.models.vim import Vim, VimConfig
from transmamba.models.vision_language import MambaVLM, MambaVLMConfig
from transmamba.models.vmamba import VMamba, VMambaConfig

__all__ = [
    "InferenceParams",
    "MambaLM",
    "MambaLMConfig",
    "MambaTextEncoder",
    "MambaTextEncoderConfig",
    "MambaVLM",
    "MambaVLMConfig",
    "PlainMamba",
    "PlainMambaConfig",
    "Role",
    "Student",
    "VMamba",
    "VMambaConfig",
    "VideoMamba",
    "VideoMambaConfig",
    "VideoText",
    "VideoTextConfig",
    "Vim",
    "VimConfig",
    "WithText",
    "WithTextConfig",
    "create_model",
    "default_config",
    "list_models",
    "load_pretrained",
    "register_model",
    "save_pretrained",
    "with_text",
]
