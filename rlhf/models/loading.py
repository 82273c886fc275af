"""Models read as they are, by Hub id, folder, run directory, or one of the three that need no Hub.

transformers fills gaps: a weight that is missing or of another size is made anew at random, and one whose name it does
not know is dropped. Here each of these is an error that names the weights. No Python code of a model is ever run.
"""

import sys
from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from rlhf.config.live import is_live, taken
from rlhf.config.paths import home
from rlhf.errors import UserError
from rlhf.models.live import LiveModel
from rlhf.models.names import SMOLLM2, find_folder

# Computed from the config, whatever a checkpoint holds of them: tables of angles and positions, causal masks.
COMPUTED = ("inv_freq", "position_ids", "masked_bias", "attn.bias", "attention.bias")
FLOATS = ("F64", "F32", "F16", "BF16")  # types of weights that can be trained, as safetensors calls them


@dataclass(frozen=True)
class Source:
    """Where a model comes from, as from_pretrained takes it, and what a message calls it: the key and its value."""

    path: str
    gguf_file: str | None = None
    label: str = ""

    @property
    def live(self) -> LiveModel | None:
        """The model itself, where a Python program has handed it over."""
        return taken(self.path, key=self.label.partition(":")[0]) if is_live(self.path) else None

    @property
    def place(self) -> str:
        """The Hub id, or the whole name of the folder: what names the model from anywhere."""
        if self.live is not None:
            return self.live.model.name_or_path or self.path
        return str(Path(self.path).resolve()) if Path(self.path).exists() else self.path

    @property
    def arguments(self) -> dict[str, Any]:
        """What every from_pretrained is given. Asked for no code, transformers neither runs any nor asks on stdin."""
        return {"trust_remote_code": False, **({"gguf_file": self.gguf_file} if self.gguf_file else {})}


def find_model(name: str, *, key: str = "model_name") -> Source:
    """Resolve a model name and see that something usable is there, before any weight is read.

    Args:
        key: of the setting that the name is the value of, for messages.

    Raises:
        UserError: if it is no known name, no folder with a model, and no id that the Hub (or its local cache) has; or
            if its config tells already that it cannot be used (see `read_config`).
    """
    folder = find_folder(name, key=key)
    path = str(folder) if folder else home(name)
    weights = next((it.name for it in folder.glob("*.gguf")), None) if name == SMOLLM2 and folder else None
    source = Source(path, weights, label=f"{key}: '{name}'")
    if not source.gguf_file:
        read_config(source)
    return source


def read_config(source: Source, **changes: Any) -> PreTrainedConfig:
    """A model's config without what would run code of others: classes, attention and expert kernels from the Hub.

    Args:
        changes: values that replace those of the file.

    Raises:
        UserError: if it cannot be read, or is of a model that needs code of its own, is quantized, or encodes one text
            and decodes another.
    """
    if source.live is not None:
        config = deepcopy(source.live.model.config)
        config.update(changes)
    else:
        with reading(source, ": its config.json could not be read"):
            config = AutoConfig.from_pretrained(source.path, **source.arguments, **changes)
    # A config can name attention and experts "owner/repository": kernels that transformers would fetch and run.
    config._attn_implementation = None
    config._experts_implementation = None
    if hasattr(config, "rescale_every"):  # RWKV halves its weights in place for fp16, and would be saved so
        config.rescale_every = 0
    if hasattr(config, "auto_map"):  # of Python files that are not saved with the model
        del config.auto_map
    if getattr(config, "is_encoder_decoder", False):
        raise UserError(
            f"{source.label} ({config.model_type}) is an encoder with a decoder: it does not continue its prompt",
            hint="Choose a decoder-only language model, such as Qwen, Llama, OLMo, SmolLM or Mistral.",
        )
    if getattr(config, "quantization_config", None) is not None and not source.gguf_file:
        method = dict(config.quantization_config).get("quant_method", "of some kind")
        raise UserError(
            f"{source.label} is quantized ({method}): its weights cannot be trained as they are",
            hint="Choose the version of the model in bf16 or fp32.",
        )
    return config


@contextmanager
def reading(source: Source, trouble: str) -> Generator[None]:
    """Whatever transformers, safetensors or torch say of a file becomes one message that names the model.

    Args:
        trouble: what goes on between the name and the reason.

    Raises:
        UserError: for any exception.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if "custom code" in str(error):
            raise UserError(
                f"{source.label} needs Python code of its own, which is never run",
                hint="Choose a model whose architecture is part of transformers.",
            ) from error
        if "Unrecognized configuration class" in reason:  # followed by a hundred that are recognized
            reason = "transformers has no class of that kind for it"
        if "weights_only" in str(error):
            reason = "a weight file is a pickle that would run code"
        if isinstance(error, OSError) and not Path(source.path).is_dir():
            raise UserError(
                f"{source.label} is neither a folder here nor a model that the Hugging Face Hub or its cache has "
                f"({reason})",
                hint="Check the id and the network (gated models need HF_TOKEN), or use 'embedded', which is always "
                "there.",
            ) from error
        damaged = isinstance(error, SafetensorError | EOFError)
        hint = "A weight file is cut short or damaged: copy the model anew." if damaged else None
        raise UserError(f"{source.label}{trouble}: {reason}", hint=hint) from error


def load_weights(
    kind: Any,  # an auto class of transformers
    source: Source,
    *,
    attention: str = "sdpa",
    heads: Collection[str] = (),
    left_behind: Collection[str] = (),
    look: Callable[[PreTrainedModel], None] | None = None,
    **changes: Any,
) -> PreTrainedModel:
    """A model in fp32 and evaluation mode, each of whose weights came out of its files.

    Args:
        heads: parts of names; weights that have one of them may be new or replace some of another size.
        left_behind: parts of names of weights that the files may hold and the model does not want.
        look: a check of the architecture, made before the weights are looked at, since its reason is the better one.
        changes: values that replace those of the config file.

    Raises:
        UserError: naming the weights that are missing, unknown, of another size, or not finite; or whatever else keeps
            the files from being read.
    """
    if source.live is not None:
        model = _copy_of_live(kind, source, source.live, attention)
        if look is not None:
            look(model)
        _refuse_odd_numbers(source, model)
        return model
    if source.gguf_file:
        from transformers import GgufConfig

        given: dict[str, Any] = {"quantization_config": GgufConfig(dequantize=True)}
    else:
        given = {"config": read_config(source, **changes)}
        _refuse_whole_numbers(source)
    quiet = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # its report of weights is looked at below
    had_bars = transformers_logging.is_progress_bar_enabled()
    if not sys.stderr.isatty():
        transformers_logging.disable_progress_bar()
    try:
        with reading(source, " could not be loaded"):
            model, found = kind.from_pretrained(
                source.path,
                dtype=torch.float32,
                attn_implementation=None if attention == "sdpa" else attention,  # None: SDPA, or eager without it
                ignore_mismatched_sizes=True,  # which are refused below, with their names
                output_loading_info=True,
                **source.arguments,
                **given,
            )
    finally:
        transformers_logging.set_verbosity(quiet)
        if had_bars:
            transformers_logging.enable_progress_bar()
    model.eval()
    if look is not None:
        look(model)
    _refuse_other_weights(source, found, heads, left_behind)
    _refuse_odd_numbers(source, model)
    return model


def _copy_of_live(kind: Any, source: Source, live: LiveModel, attention: str) -> PreTrainedModel:
    if not live.is_a(kind):
        raise UserError(f"{source.label} is no model of {kind.__name__}", hint="Hand over a language model.")
    return live.copy(attention=attention)


def _refuse_whole_numbers(source: Source) -> None:
    """No weight in a folder's files is stored in a type that means something else without its scale: as a whole number
    or in 8 bits. It would be read as a number, and most would be 0. (Tables of positions and masks may be anything.)"""
    for file in sorted(Path(source.path).glob("*.safetensors")):
        with reading(source, " could not be loaded"), safe_open(file, "pt") as weights:
            odd = {
                name: kind
                for name in weights.keys()  # noqa: SIM118 - no mapping
                if name.endswith((".weight", ".bias")) and (kind := weights.get_slice(name).get_dtype()) not in FLOATS
            }
        if odd:
            kinds = ", ".join(sorted(set(odd.values())))
            raise UserError(
                f"{source.label}: {len(odd)} weights in {file.name} are stored as {kinds} ({_some(list(odd))}): they "
                "are quantized, and cannot be trained as they are",
                hint="Choose the version of the model in bf16 or fp32.",
            )


def _refuse_other_weights(
    source: Source, found: dict[str, Any], heads: Collection[str], left_behind: Collection[str]
) -> None:
    """See `load_weights`; `found` is what transformers tells of loading."""

    def has(name: str, parts: Collection[str]) -> bool:
        return any(part in name.split(".") for part in parts)

    sizes = {
        name: f"{name} is {_size(in_file)} in the file and {_size(in_model)} by the config"
        for name, in_file, in_model in found["mismatched_keys"]
    }
    faults = {
        "missing from its files": [n for n in found["missing_keys"] if not has(n, heads)],
        "not of this model, or renamed": [n for n in found["unexpected_keys"] if not has(n, [*heads, *left_behind])],
        "of another size": [text for name, text in sizes.items() if not has(name, heads)],
        "unreadable": list(found["error_msgs"]),
    }
    told = [
        f"{len(names)} {'weight is' if len(names) == 1 else 'weights are'} {fault} ({_some(sorted(names))})"
        for fault, all_names in faults.items()
        if (names := [name for name in all_names if not name.endswith(COMPUTED)])
    ]
    if told:
        raise UserError(
            f"{source.label}: " + "; ".join(told),
            hint="The weights do not belong to this config.json, or the files are not whole: copy the model anew.",
        )


def _refuse_odd_numbers(source: Source, model: PreTrainedModel) -> None:
    """No parameter holds nan or an infinity, and all are numbers that can be trained."""
    odd = [name for name, p in model.named_parameters() if not torch.isfinite(p).all()]
    if odd:
        raise UserError(
            f"{source.label}: the weights are not finite: {_some(odd)}",
            hint="The run that saved them had diverged, or the file is damaged: take an earlier checkpoint.",
        )
    other = [name for name, p in model.named_parameters() if p.dtype != torch.float32]
    if other:
        raise UserError(f"{source.label}: weights could not be read as fp32: {_some(other)}")


def _size(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def _some(names: Sequence[str], count: int = 3) -> str:
    """The first names of a list, and how many more there are."""
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more
