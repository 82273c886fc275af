"""Random models small enough to be exact about, in fp32."""

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, Olmo2Config, Olmo2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

ARCHITECTURES = {
    "qwen3": (Qwen3ForCausalLM, Qwen3Config, {"head_dim": 16}),
    "llama": (LlamaForCausalLM, LlamaConfig, {}),
    "olmo2": (Olmo2ForCausalLM, Olmo2Config, {}),
}


def tiny_model(architecture: str, *, vocabulary: int = 100, layers: int = 2, seed: int = 0) -> nn.Module:
    """4 query heads on 2 key heads; weights N(0, 0.1), so that logits have a standard deviation of about 0.8."""
    model_class, config_class, particular = ARCHITECTURES[architecture]
    config = config_class(
        vocab_size=vocabulary,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=None,
        **particular,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = model_class(config)
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.1) if parameter.ndim > 1 else nn.init.uniform_(parameter, 0.5, 1.5)
    return model.eval()
