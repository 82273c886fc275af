"""Which attention a model computes, for a while."""

from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import PreTrainedConfig, PreTrainedModel

from rlhf.groups import Rows
from rlhf.models.recomputing import recomputes

SHORT = 128  # up to this row length in tokens, attention on a CPU is faster without PyTorch's blocked kernel


@contextmanager
def using_attention(model: PreTrainedModel, name: str) -> Generator[None]:
    """Have the model take the attention that is registered with transformers by that name.

    Each layer reads the name from its config, which is the model's, or a copy of it in a layer that was added.
    """
    found = [getattr(module, "config", None) for module in model.modules()]
    configs = [model.config, *(config for config in found if isinstance(config, PreTrainedConfig))]
    before = {id(config): (config, config._attn_implementation) for config in configs}
    try:
        for config, attention in before.values():
            if attention == before[id(model.config)][1]:
                config._attn_implementation = name
        yield
    finally:
        for config, attention in before.values():  # the model's first, since setting it sets those of its parts
            config._attn_implementation = attention


def attention_kernel(model: PreTrainedModel, rows: Rows) -> AbstractContextManager[None]:
    """Use PyTorch's default attention kernel, except for short rows on a CPU.

    There its blocked kernel is slower than plain matrix products: 3 times at 64 tokens, equal at 256. With gradient
    checkpointing the default stays: the recomputation in backward runs outside this context and would use another
    kernel than the forward pass.
    """
    short = rows.input_ids.device.type == "cpu" and rows.input_ids.shape[1] <= SHORT
    return sdpa_kernel(SDPBackend.MATH) if short and not recomputes(model) else nullcontext()
