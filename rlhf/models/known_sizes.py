"""Sizes of models that the configs name, so that `--plan` and the benchmarks need no network."""

from typing import Any

_QWEN3 = {
    "model_type": "qwen3",
    "vocab_size": 151936,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 40960,
    "tie_word_embeddings": True,
}
_QWEN3_06B = _QWEN3 | {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28}
_QWEN3_17B = _QWEN3 | {"hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28}
_QWEN3_4B_WIDTHS = {"hidden_size": 2560, "intermediate_size": 9728, "num_attention_heads": 32}
_QWEN3_4B = _QWEN3 | _QWEN3_4B_WIDTHS | {"num_hidden_layers": 36}
_OLMO2_1B = {
    "model_type": "olmo2",
    "vocab_size": 100352,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
}

# The numbers of each model's config.json; everything else is the architecture's default.
KNOWN_SIZES: dict[str, dict[str, Any]] = {
    "Qwen/Qwen3-0.6B": _QWEN3_06B,
    "Qwen/Qwen3-0.6B-Base": _QWEN3_06B,
    "Qwen/Qwen3-1.7B": _QWEN3_17B,
    "Qwen/Qwen3-1.7B-Base": _QWEN3_17B,
    "Qwen/Qwen3-4B": _QWEN3_4B,
    "Qwen/Qwen3-4B-Base": _QWEN3_4B,
    "allenai/OLMo-2-0425-1B": _OLMO2_1B,
    "allenai/OLMo-2-0425-1B-SFT": _OLMO2_1B,
    "allenai/OLMo-2-0425-1B-Instruct": _OLMO2_1B,
}
