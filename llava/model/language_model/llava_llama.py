"""LLaVA on Llama and Vicuna: LLaVA-1.5 and LLaVA-1.6."""

from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel, LlamaPreTrainedModel

from llava.model.llava_arch import LlavaMetaForCausalLM, LlavaMetaModel


class LlavaConfig(LlamaConfig):
    """Llama's config with the mm_* keys of LLaVA-NeXT, and optionally vision_config, the shape of the tower."""

    model_type = "llava_llama"


class LlavaLlamaModel(LlavaMetaModel, LlamaModel):
    """Llama decoder with a vision tower, a projector and image_newline."""

    config_class = LlavaConfig


class LlavaLlamaForCausalLM(LlavaMetaForCausalLM, LlamaForCausalLM):
    """Llama language model that reads images and videos."""

    config_class = LlavaConfig

    def __init__(self, config: LlavaConfig):
        # LlamaForCausalLM's own constructor would build a second, text-only decoder.
        LlamaPreTrainedModel.__init__(self, config)
        self.model = LlavaLlamaModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()
