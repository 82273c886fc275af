"""The precision that a model is saved in. Training keeps fp32 weights, and checkpoints do; what others load need not.

A model that was published in bf16 is read in bf16 by everybody: an fp32 copy takes twice the disk, and engines round it
when they load it.
"""

from collections.abc import Collection
from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn

from rlhf.models.loading import Source, read_config

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
STORED = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}  # as safetensors calls them


def own_dtype(source: Source) -> torch.dtype:
    """The precision that a model came in: by its config.json, or else by its weights; fp32 if neither tells."""
    named = source.live.dtype if source.live is not None else read_config(source).dtype
    if isinstance(named, torch.dtype) and named in DTYPES.values():
        return named
    for file in sorted(Path(source.path).glob("*.safetensors")):
        with safe_open(file, "pt") as weights:
            for name in weights.keys():  # noqa: SIM118 - no mapping
                if (kind := weights.get_slice(name).get_dtype()) in STORED:
                    return STORED[kind]
    return torch.float32


def cast_for_saving(model: nn.Module, dtype: torch.dtype, *, spared: Collection[str] = ()) -> None:
    """Round the weights of a model to a precision, in place; buffers, such as tables of angles, stay as they are.

    Args:
        spared: parts of names of weights that stay fp32: the heads of reward models.
    """
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and not {*spared} & {*name.split(".")}:
            parameter.data = parameter.data.to(dtype)
