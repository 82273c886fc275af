"""The config keys that every trainer has."""

from typing import Any, ClassVar, Literal, TypedDict

from pydantic import Field, model_validator

from rlhf.config.paths import PathName
from rlhf.config.schema import Config


class ChatSettings(TypedDict):
    """The chat template of the model to train: arguments of `rlhf.models.tokenizer.load_tokenizer`."""

    chat_template: str | None
    chat_template_kwargs: dict[str, Any]


class TrainerConfig(Config):
    """Training"""

    topics: ClassVar[dict[str, str]] = {
        "device": "Model and device",
        "lr": "Optimizer",
        "save_every": "Checkpoints, evaluation and samples",
    }
    # The key that says how much a step takes, of which every process has the same share; and the key that says in how
    # many optimizer steps that is cut, if there is one.
    shared_size: ClassVar[tuple[str, str]] = ("batch_size", "")

    # the model
    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="auto is CUDA if it is there, else CPU.")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto",
        description="Of compute; weights, optimizer and losses are fp32. auto is bf16 where the hardware has it.",
    )
    attention: Literal["sdpa", "eager", "flash"] = Field(
        "sdpa", description="Attention kernel. flash needs the flash extra and uses padded rows."
    )
    shared_prefix: bool = Field(True, description="Lay the completions of a prompt in one row, the prompt once.")
    lora_rank: int = Field(0, ge=0, description="Rank of LoRA adapters; 0 trains all weights.")
    lora_alpha: int | None = Field(
        None, gt=0, description="Adapters count lora_alpha / lora_rank times; null: twice the rank."
    )
    lora_targets: str | list[str] = Field(
        "all-linear", description="Linear layers that get adapters: all-linear, or names such as [q_proj, v_proj]."
    )
    gradient_checkpointing: bool = Field(False, description="Recompute activations in backward: less memory, slower.")
    low_memory: bool = Field(
        False,
        description="Train all weights in 6 bytes each, not 16: bf16 weights with stochastic rounding, AdamW's moments "
        "in 8 bits.",
    )

    fsdp: bool = Field(
        False,
        description="Several processes divide weights, gradients and optimizer state (FSDP2) and do not each keep all.",
    )

    # the conversation
    chat_template: PathName | None = Field(
        None,
        description="null: the model's own; chatml; a file NAME.jinja; or a model (id, folder, run) to take it from, "
        "such as the instruction-tuned sibling of a base model.",
    )
    chat_template_kwargs: dict[str, Any] = Field(
        {}, description="Values of the chat template's variables, such as {enable_thinking: false}."
    )

    # the optimizer
    lr: float = Field(1e-5, gt=0, description="Peak learning rate of AdamW.")
    lr_schedule: Literal["constant", "linear", "cosine"] = Field("constant", description="After the warm-up.")
    warmup_steps: int = Field(0, ge=0, description="Steps of linear warm-up.")
    adam_beta1: float = Field(0.9, ge=0, lt=1, description="Decay of AdamW's mean of gradients.")
    adam_beta2: float = Field(0.999, ge=0, lt=1, description="Decay of AdamW's mean of squared gradients.")
    weight_decay: float = Field(0.0, ge=0, description="AdamW's decay of matrices; norms and biases are spared.")
    max_grad_norm: float = Field(1.0, gt=0, description="Gradients are scaled down to this norm.")
    token_budget: int = Field(
        8192, gt=0, description="Tokens in a micro-batch, padding included: less needs less memory, same result."
    )

    # the run
    memory_gb: float | None = Field(
        None,
        gt=0,
        description="Memory that a run may take on a CUDA device: it gets no more, and samples in batches that fit. "
        "--plan says whether it would fit.",
    )
    save_every: int = Field(50, gt=0, description="Steps between checkpoints.")
    keep_checkpoints: int = Field(2, gt=0, description="How many checkpoints are kept.")
    eval_every: int = Field(0, ge=0, description="Steps between held-out evaluations; 0: before and after only.")
    save_dtype: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="Precision of final/; auto is the model's own. Checkpoints are fp32."
    )
    sample_every: int = Field(10, gt=0, description="Steps between samples shown and written to samples.jsonl.")

    @property
    def chat(self) -> ChatSettings:
        return {"chat_template": self.chat_template, "chat_template_kwargs": self.chat_template_kwargs}

    @model_validator(mode="after")
    def _low_memory_trains_all_weights_in_bf16(self) -> "TrainerConfig":
        if self.low_memory and self.lora_rank:
            raise ValueError("low_memory trains all weights, and lora_rank few: --low_memory false, or --lora_rank 0")
        if self.low_memory and self.precision == "fp32":
            raise ValueError(
                "low_memory computes in bf16, not in precision fp32: --low_memory false, or --precision bf16"
            )
        if self.low_memory and self.fsdp:
            raise ValueError("fsdp cannot divide moments in 8 bits: --low_memory false, or --fsdp false")
        return self

    @model_validator(mode="after")
    def _adapters_are_there(self) -> "TrainerConfig":
        if not self.lora_rank:
            self.refuse_idle(
                "lora_alpha", "lora_targets", because="there are no adapters", cure="--lora_rank 16, for example."
            )
        return self

    @model_validator(mode="after")
    def _reference_can_move(self) -> "TrainerConfig":
        if self.lora_rank and getattr(self, "sync_reference_every", 0):
            raise ValueError(
                "sync_reference_every: with lora_rank the reference is what is under the adapters: it stays"
            )
        return self
