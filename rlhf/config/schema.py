"""What a config is: a frozen pydantic model whose values a YAML file and a float can hold."""

import re
from collections.abc import Iterator, Mapping
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidatorFunctionWrapHandler, field_validator
from pydantic_core import PydanticCustomError

from rlhf.config.paths import PathName
from rlhf.errors import IdleError

LARGEST_SEED = 2**32 - 1  # the largest that numpy accepts
COLDEST = 1e-3  # lowest sampling temperature; logits divided by much less overflow
LARGEST_WHOLE = 2**53  # above it, floats (which schedules and speeds use) skip whole numbers

_NOT_UTF8 = re.compile(r"[\0\ud800-\udfff]")


class Section(BaseModel):
    """A group of settings to nest in a Config.

    Unknown keys, nan, inf, booleans given for numbers, whole numbers above 2**53 and text that is not UTF-8 are errors.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def is_default(self, key: str) -> bool:
        """Whether a setting, GROUP.KEY in a group, has the value that holds where none is given."""
        name, _, inner = key.partition(".")
        value = getattr(self, name)
        if inner:
            return value is None or value.is_default(inner)
        return value == type(self).model_fields[name].default

    def refuse_idle(self, *keys: str, because: str, cure: str) -> None:
        """Raises: IdleError: one of these settings is given, though nothing reads it."""
        for key in keys:
            if not self.is_default(key):
                raise IdleError(key, because=because, cure=cure)

    @field_validator("*", mode="wrap")
    @classmethod
    def _refuse_what_no_file_holds(cls, given: object, validate: ValidatorFunctionWrapHandler) -> object:
        value = validate(given)
        if _bool_became_number(given, value):
            raise PydanticCustomError("bool_for_number", "a number, not true or false")
        for inner in _plain_values(value):
            if isinstance(inner, int) and abs(inner) > LARGEST_WHOLE:
                raise PydanticCustomError("too_large", "a whole number of at most 2**53")
            if isinstance(inner, str) and _NOT_UTF8.search(inner):
                raise PydanticCustomError("no_text", "text without a null character or half a character")
        return value


class Config(Section):
    """Settings common to every command."""

    # The keys that --help and --show_config show first.
    common: ClassVar[tuple[str, ...]] = ("model_name", "max_steps", "seed", "output_dir")
    # Where a topic begins: its first key, in the order below, and its heading. It goes on to the next one.
    topics: ClassVar[dict[str, str]] = {"wandb_project": "Trackers"}

    model_name: PathName = Field(
        "embedded", description="Model to train: 'embedded', a Hugging Face id, a local folder or a run directory."
    )
    max_steps: int = Field(gt=0, description="Number of optimizer steps.")
    seed: int = Field(0, ge=0, le=LARGEST_SEED, description="Seed of the data order, the sampling and the weights.")
    output_dir: PathName | None = Field(None, description="Run directory; null is runs/<config name>-seed<seed>.")
    wandb_project: str | None = Field(None, description="Weights & Biases project; null turns W&B off.")
    wandb_entity: str | None = Field(None, description="Weights & Biases user or team.")
    wandb_run_name: str | None = Field(None, description="Name of the run in Weights & Biases.")
    wandb_mode: Literal["online", "offline", "disabled"] = Field("online", description="Weights & Biases mode.")
    tensorboard: bool = Field(False, description="Also write TensorBoard event files into the run directory.")
    trackio: bool = Field(
        False, description="Also log to trackio (extra trackio), in the project wandb_project, or rlhf-lab."
    )


def _plain_values(value: object) -> Iterator[object]:
    """All keys and values inside a setting, at any depth. Groups are skipped: they validate themselves."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield key
            yield from _plain_values(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _plain_values(inner)
    else:
        yield value


def _bool_became_number(given: object, value: object) -> bool:
    """Whether pydantic read true or false as 1 or 0, at any depth of a plain value."""
    if isinstance(given, bool):
        return isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(given, Mapping) and isinstance(value, Mapping):
        return any(_bool_became_number(given[k], value[k]) for k in given.keys() & value.keys())
    if isinstance(given, list | tuple) and isinstance(value, list | tuple):
        return any(map(_bool_became_number, given, value))
    return False
