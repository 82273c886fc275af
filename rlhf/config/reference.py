"""The config keys of trainers that keep a reference: the model as it was, or as it follows."""

from pydantic import Field, model_validator

from rlhf.config.trainer import TrainerConfig


class ReferenceConfig(TrainerConfig):
    """Memory of the reference"""

    offload_reference: bool = Field(
        False,
        description="Keep the reference's weights in the processor's memory, and have them on the GPU only while they "
        "score. With lora_rank the reference takes no memory of its own.",
    )

    @model_validator(mode="after")
    def _has_weights_of_its_own(self) -> "ReferenceConfig":
        if self.offload_reference and self.lora_rank:
            raise ValueError(
                "offload_reference: with lora_rank the reference is what is under the adapters: it stays where it is"
            )
        return self


def offloads_reference(config: TrainerConfig) -> bool:
    """Whether a run keeps the weights of its reference in the processor's memory."""
    return isinstance(config, ReferenceConfig) and config.offload_reference
