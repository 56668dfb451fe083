"""LLaVA on Qwen2: LLaVA-OneVision and LLaVA-Video."""

from torch import nn
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Model, Qwen2PreTrainedModel

from llava.model.llava_arch import LlavaMetaForCausalLM, LlavaMetaModel


class LlavaQwenConfig(Qwen2Config):
    """Qwen2's config with the mm_* keys of LLaVA-NeXT, and optionally vision_config, the shape of the tower."""

    model_type = "llava_qwen"


class LlavaQwenModel(LlavaMetaModel, Qwen2Model):
    """Qwen2 decoder with a vision tower, a projector and image_newline."""

    config_class = LlavaQwenConfig


class LlavaQwenForCausalLM(LlavaMetaForCausalLM, Qwen2ForCausalLM):
    """Qwen2 language model that reads images and videos."""

    config_class = LlavaQwenConfig

    def __init__(self, config: LlavaQwenConfig):
        # Qwen2ForCausalLM's own constructor would build a second, text-only decoder.
        Qwen2PreTrainedModel.__init__(self, config)
        self.model = LlavaQwenModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()
