"""The models of a run: its tokenizer, the policy to train, and the frozen reference, on the run's device."""

from collections.abc import Callable
from typing import Any

from accelerate import Accelerator
from torch import device as Device
from torch import nn
from torch.optim import Optimizer
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf.config.reference import offloads_reference
from rlhf.config.trainer import TrainerConfig
from rlhf.embedded.make import character_tokenizer, new_model
from rlhf.models.architecture import attention_window, refuse_long_settings, takes_shared_rows
from rlhf.models.frozen import store_in_bf16
from rlhf.models.lora import Lora
from rlhf.models.offload import offload
from rlhf.models.policy import choose_attention, load, load_frozen, load_policy
from rlhf.models.sharding import Sharded, layers_of
from rlhf.models.tokenizer import load_tokenizer, with_chat_template
from rlhf.run.console import Console
from rlhf.sampling import shares_prompts
from rlhf.text.dialogue import moves_system_messages


class Models:
    """What a session loads. It knows the device and says what it finds."""

    config: TrainerConfig
    device: Device
    precision: str
    accelerator: Accelerator
    console: Console
    shared_prefix: bool
    _tokenizer: PreTrainedTokenizerBase | None = None

    def load_tokenizer(self, scratch: Any = None) -> PreTrainedTokenizerBase:
        """The tokenizer of the run, with its chat template: loaded once, for the data and for the model."""
        if self._tokenizer is None:
            if scratch is not None:
                self._tokenizer = with_chat_template(character_tokenizer(), **self.config.chat)
            else:
                self._tokenizer = load_tokenizer(self.config.model_name, **self.config.chat)
        return self._tokenizer

    def load_policy(self, scratch: Any = None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """The model to train, on its device, with its tokenizer; `scratch` gives the sizes of a new one instead."""
        config = self.config
        if scratch is not None:
            model, tokenizer = new_model(**scratch.model_dump()).eval(), self.load_tokenizer(scratch)
        else:
            attention = choose_attention(config.attention, self.device)
            model, tokenizer = load(
                config.model_name,
                tokenizer=self.load_tokenizer(),
                attention=attention,
                lora=Lora.of(config),
                gradient_checkpointing=config.gradient_checkpointing,
            )
        model.to(self.accelerator.device)
        samples_from_shared_prompt = shares_prompts(model)
        self.place(model, takes_shared_rows)
        kind = type(model).__name__
        window = attention_window(model)
        if not samples_from_shared_prompt:
            self.console.say(f"{kind} cannot sample from a shared prompt: transformers' generate does it, slower")
        elif window is not None:
            self.console.say(
                f"{kind} looks back {window} tokens: texts longer than that are sampled by generate, slower"
            )
        return model, tokenizer

    def place(self, model: PreTrainedModel, takes_shared_rows: Callable[[PreTrainedModel], bool]) -> None:
        """Put the model to train on its device, and find out which rows it takes: shared and packed ones, or a row for
        each completion.

        Raises:
            UserError: if it cannot read texts of max_length tokens.
        """
        refuse_long_settings(model.config, self.config)
        model.to(self.accelerator.device)
        if model.config._attn_implementation == "flash_attention_2":
            self.shared_prefix = False
        if self.shared_prefix and not takes_shared_rows(model):
            self.shared_prefix = False
            self.console.say(
                f"{type(model).__name__} cannot take shared-prefix rows nor packed ones: each completion gets its own"
            )
        # Last, since what was tried above computes in fp32.
        if self.precision == "bf16":
            store_in_bf16(model)
        if self.config.low_memory:
            from rlhf.models.low_memory import store_trained_in_bf16  # torchao takes a second to load

            store_trained_in_bf16(model)

    def prepare(self, module: nn.Module, optimizer: Optimizer) -> tuple[nn.Module, Optimizer]:
        """A module around the model to train, and its optimizer, for the processes of this run: what a loop calls to
        learn. With `fsdp` they hold a share of the weights each, and of what belongs to them; else all of it (DDP).
        """
        accelerator = self.accelerator
        if not self.config.fsdp or accelerator.num_processes == 1 or not layers_of(module):
            return accelerator.prepare(module, optimizer)
        sharded = Sharded(module, accelerator)
        sharded.take_over(optimizer)
        accelerator.prepare_model(module, evaluation_mode=True)  # checkpoints have the whole model
        return sharded, accelerator.prepare_optimizer(optimizer)

    def load_reference(self, *, moves: bool = False) -> PreTrainedModel:
        """A copy of the model as it was before training: `--model_name X` moves it along. See `load_frozen`.

        It is read within `on_device`: with `offload_reference` its weights are elsewhere until then.
        """
        precision = "fp32" if moves else self.precision  # small steps towards the policy would be lost in bf16
        model = load_frozen(self.config.model_name, precision=precision)
        if not offloads_reference(self.config):
            return model.to(self.accelerator.device)
        offload(model, self.accelerator.device)
        return model

    def load_teacher(self, name: str, *, key: str) -> tuple[PreTrainedModel, bool]:
        """Another model that is not trained, on the run's device, and whether it takes shared-prefix rows.

        Args:
            key: of the setting that the name is the value of, for messages.
        """
        model = load_policy(name, key=key).requires_grad_(False).to(self.accelerator.device)
        shared_prefix = self.shared_prefix and takes_shared_rows(model)
        if self.precision == "bf16":
            store_in_bf16(model)  # last, as in `place`
        return model, shared_prefix

    def say_what_moved(self) -> None:
        """Say it if conversations had a system message that the chat template does not take."""
        if self._tokenizer is not None and moves_system_messages(self._tokenizer):
            self.console.say(
                "data: the chat template takes no system message: it stands in front of the user's first message"
            )
