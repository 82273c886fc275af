"""LoRA: adapters that learn in place of the weights under them, saved in PEFT's format, and merged at the end.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021, arXiv 2106.09685: W + (alpha / rank) B A.
"""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedModel

from rlhf.config.trainer import TrainerConfig
from rlhf.errors import UserError, nearest

ALL_LINEAR = "all-linear"  # PEFT's word for every linear layer but the output


@dataclass(frozen=True)
class Lora:
    """What adapters are made of."""

    rank: int
    alpha: int | None = None  # None: twice the rank
    targets: str | Sequence[str] = ALL_LINEAR  # or names of modules, such as q_proj

    @classmethod
    def of(cls, config: TrainerConfig) -> "Lora | None":
        """The adapters that a config asks for; None where all weights are trained."""
        return cls(config.lora_rank, config.lora_alpha, config.lora_targets) if config.lora_rank else None

    @property
    def names(self) -> list[str]:
        """The modules that are named; none for all linear layers."""
        if self.targets == ALL_LINEAR:
            return []
        return [self.targets] if isinstance(self.targets, str) else list(self.targets)

    def adapts(self, name: str) -> bool:
        """Whether the linear layer of this name in the model gets adapters."""
        return not self.names or any(name == target or name.endswith(f".{target}") for target in self.names)


def add_lora(model: PreTrainedModel, lora: Lora, *, spared: Sequence[str] = ()) -> None:
    """Put adapters on a model, in place, and freeze everything else. PEFT's wrapper would only hide the backbone.

    Args:
        spared: names of modules that get no adapter.

    Raises:
        UserError: a target is no linear layer of the model, or PEFT cannot adapt this architecture, such as a
            state-space model.
    """
    from peft import LoraConfig, get_peft_model

    _refuse_unknown(lora.names, model)
    adapters = LoraConfig(
        r=lora.rank,
        lora_alpha=2 * lora.rank if lora.alpha is None else lora.alpha,
        target_modules=lora.names or ALL_LINEAR,
        exclude_modules=list(spared) or None,
    )
    try:
        get_peft_model(model, adapters)
    except (ValueError, TypeError, NotImplementedError, AttributeError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(
            f"lora_rank: {type(model).__name__} takes no adapters on its linear layers: {reason}",
            hint="Train all weights (lora_rank 0), or choose another model.",
        ) from error


def _refuse_unknown(targets: Sequence[str], model: PreTrainedModel) -> None:
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    for target in targets:
        if not any(Lora(1, targets=target).adapts(name) for name in linear):
            known = sorted({name.rpartition(".")[2] for name in linear})
            raise UserError(
                f"lora_targets: {type(model).__name__} has no linear layer '{target}'; {nearest(target, known)}",
                hint=f"There are {', '.join(known)}; {ALL_LINEAR} is all of them but the output.",
            )


def save_adapter(model: PreTrainedModel, folder: Path, *, base: str, task: str, heads: Sequence[str] = ()) -> None:
    """Write the adapters of a model, which are not merged yet, as PEFT reads them: PeftModel.from_pretrained.

    Args:
        base: the model that they belong to, as from_pretrained takes it.
        task: PEFT's name for what the model does: CAUSAL_LM, SEQ_CLS or TOKEN_CLS.
        heads: modules that were trained whole, and are saved with the adapters.
    """
    from peft import get_peft_model_state_dict

    settings: Any = copy(model.__dict__["peft_config"]["default"])  # PEFT puts it there
    settings.base_model_name_or_path, settings.task_type, settings.inference_mode = base, task, True
    whole = {name: weight for name, weight in model.state_dict().items() if name.partition(".")[0] in heads}
    settings.modules_to_save = sorted({name.partition(".")[0] for name in whole}) or None
    settings.exclude_modules = None
    weights = get_peft_model_state_dict(model, save_embedding_layers=False) | whole
    folder.mkdir(parents=True)
    found = {f"base_model.model.{name}": value.contiguous() for name, value in weights.items()}
    save_file(found, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    settings.save_pretrained(str(folder))


def merge_lora(model: PreTrainedModel) -> None:
    """Add trained adapters into the weights under them, so that the model is a plain one again. In fp32, whatever the
    frozen weights are kept in: in bf16, most of what was learned would be rounded away."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, layer in list(model.named_modules()):
        if isinstance(layer, BaseTunerLayer):
            layer.get_base_layer().float()
            layer.merge()
            model.set_submodule(name, layer.get_base_layer())
