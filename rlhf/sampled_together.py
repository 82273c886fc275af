"""How many prompts are sampled from together: as many as have room in a share of a GPU's memory."""

import math

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from rlhf.prefix_cache import bytes_of_token

MOST_TOGETHER = 256  # completions
SHARE_OF_MEMORY = 0.25  # that sampling may take of a GPU's memory, beside the weights


def bytes_of_sampling(config: PreTrainedConfig, *, prompt: int, completions: int, length: int, width: int) -> int:
    """What sampling takes of one prompt with its completions.

    First the prompt is read, which takes the insides of one layer at a time: 8 numbers a token for each unit of width,
    and 3 for each of the feed-forward layer. Then its completions are decoded, beside its keys and values: theirs, and
    the logits of a token each with their softmax, or two products and their sum.

    Args:
        prompt: its tokens.
        length: new tokens of each completion.
        width: bytes of a number, 2 under autocast.
    """
    token = bytes_of_token(config, width=width)
    feed_forward = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    reading = prompt * width * (8 * config.hidden_size + 3 * feed_forward)
    logits = 3 * 4 * config.vocab_size
    return prompt * token + max(reading, completions * (length * token + logits))


def prompts_together(
    config: PreTrainedConfig, *, prompt: int, completions: int, length: int, memory: float, width: int
) -> int:
    """How many prompts of at most `prompt` tokens are sampled from together: those of 256 completions at most, and no
    more than a quarter of the memory has room for, but one.

    It follows from the size of the memory, not from what is free at the time: a resumed run samples in the same
    batches.

    Args:
        memory: of the GPU, bytes.
    """
    of_one = bytes_of_sampling(config, prompt=prompt, completions=completions, length=length, width=width)
    return max(1, int(min(MOST_TOGETHER // completions, SHARE_OF_MEMORY * memory / of_one)))


def together_with(model: PreTrainedModel, *, prompt: int, completions: int, length: int) -> int:
    """`prompts_together` of a model that is loaded. On a CPU memory is no limit."""
    device = next(model.parameters()).device
    memory = math.inf
    if device.type == "cuda":
        memory = torch.cuda.get_device_properties(device).total_memory
        memory *= torch.cuda.get_per_process_memory_fraction(device)  # see memory_gb
    width = 2 if torch.is_autocast_enabled(device.type) else 4
    config = model.config.get_text_config()
    return prompts_together(config, prompt=prompt, completions=completions, length=length, memory=memory, width=width)
