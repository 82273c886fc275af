"""How a model is asked: as its own run asked it, where the command line says nothing else. Light: no PyTorch."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from rlhf.config.keys import Layer, all_keys, defaults_of, flatten, overlay
from rlhf.config.options import Parser, mapping, number, temperature, whole
from rlhf.config.paths import home
from rlhf.config.recorded import read_config
from rlhf.config.schema import COLDEST, Section
from rlhf.config.validation import validate
from rlhf.errors import UserError
from rlhf.models.names import find_policy, find_template

ANSWER_IN = ("think_tags", "answer_tag", "last_number", "text")


class GenerationSettings(Section):
    """The settings of a run that say how it asked its policy, by the names that configs have."""

    system_prompt: str | None = Field(None, description="System message before the question; '' for none.")
    max_new_tokens: int = Field(256, gt=0, description="Tokens at which an answer is cut.")
    stop_at: Literal["end", "answer"] = Field(
        "end", description="An answer ends at its end token, or already at </answer>."
    )
    answer_in: Literal["think_tags", "answer_tag", "last_number", "text"] = Field(
        "think_tags", description="Where a task finds the answer: <think>..</think><answer>..</answer>, or elsewhere."
    )
    temperature: float = Field(1.0, ge=0, description="Temperature of sampling; 0 takes the likeliest token.")
    top_k: int = Field(0, ge=0, description="Sample from so many likeliest tokens; 0 is off.")
    top_p: float = Field(1.0, gt=0, le=1, description="Sample from the likeliest tokens of this mass; 1 is off.")

    @property
    def in_words(self) -> str:
        """What differs from one use to the next, in a line."""
        system = f"system prompt {self.system_prompt!r}" if self.system_prompt else "no system prompt"
        cut = [f"top_k {self.top_k}"] * bool(self.top_k) + [f"top_p {self.top_p:g}"] * (self.top_p < 1)
        end = " or </answer>" if self.stop_at == "answer" else ""
        parts = [system, f"temperature {self.temperature:g}", *cut, f"up to {self.max_new_tokens} tokens{end}"]
        return ", ".join(parts)


def add_settings(parser: Parser, *, leave_out: Sequence[str] = ()) -> None:
    """An option for each of the settings, and for the chat template of a model that has none."""
    types: dict[str, dict[str, Any]] = {
        "max_new_tokens": {"type": whole(1)},
        "stop_at": {"choices": ("end", "answer")},
        "answer_in": {"choices": ANSWER_IN},
        "temperature": {"type": temperature},
        "top_k": {"type": whole(0)},
        "top_p": {"type": number(COLDEST, 1)},
    }
    group = parser.add_argument_group("How the model is asked (default: as its run asked it)")
    for name, field in GenerationSettings.model_fields.items():
        if name not in leave_out:
            text = f"{field.description} [without a run: {field.default}]"
            group.add_argument(f"--{name}", help=text, default=argparse.SUPPRESS, **types.get(name, {}))
    group.add_argument(
        "--chat_template", metavar="NAME", help="of a base model: chatml, a file NAME.jinja, or a model to take it from"
    )
    group.add_argument("--chat_template_kwargs", type=mapping, default={}, metavar="{KEY: VALUE}", help="its variables")
    group.add_argument(
        "--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="auto is CUDA if it is there, else CPU"
    )


def given_settings(options: argparse.Namespace) -> dict[str, Any]:
    """Those that the command line gives."""
    return {name: value for name, value in vars(options).items() if name in GenerationSettings.model_fields}


def loading_settings(options: argparse.Namespace) -> dict[str, Any]:
    """Those of the options that say how a model is loaded: arguments of `Speaker.open`."""
    return {name: getattr(options, name) for name in ("device", "chat_template", "chat_template_kwargs")}


def _look_at_models(models: Sequence[str], options: argparse.Namespace) -> None:
    """Raises: UserError, if one is not there, is there twice or is no policy, or the chat template is not there."""
    if len(set(models)) < len(models):
        raise UserError("MODEL: the same model twice")
    for model in models:
        find_policy(model, key="MODEL")
    if options.chat_template:
        find_template(options.chat_template)


def run_of(model: str) -> Path | None:
    """The run directory that a model name is of, or is the `final/` of; None of any other model."""
    folder = Path(home(model))
    return next((it for it in (folder, folder.parent) if (it / "config.yaml").is_file()), None)


def settings_of_command(models: Sequence[str], options: argparse.Namespace) -> dict[str, GenerationSettings]:
    """`settings_for` the models that a command names. The first thing that a command does: without its models there is
    nothing to ask.

    Raises:
        UserError: a model is not there, is there twice or is no policy; or the chat template is not there.
    """
    _look_at_models(models, options)
    return settings_for(models, given_settings(options))


def settings_for(models: Sequence[str], given: Mapping[str, Any]) -> dict[str, GenerationSettings]:
    """The settings that each model is asked with: those of its run, under those that are given.

    A model without a run (a Hub id, the embedded one) is asked as the first of the runs beside it is, so that a policy
    before and after training is asked the same.
    """
    runs = [run for model in models if (run := run_of(model))]
    return {model: _settings(run_of(model) or next(iter(runs), None), given) for model in models}


def _settings(run: Path | None, given: Mapping[str, Any]) -> GenerationSettings:
    keys = all_keys(GenerationSettings)
    settings: Layer = flatten(defaults_of(GenerationSettings), keys)
    recorded = read_config(run) if run else {}
    if "eval_max_new_tokens" in recorded:  # of a trainer that samples for its evaluation alone
        recorded = {"max_new_tokens": recorded["eval_max_new_tokens"], **recorded}
    own = {name: value for name, value in recorded.items() if name in keys}
    overlay(settings, flatten(own, keys, lambda _: f"{run}/config.yaml"))
    overlay(settings, flatten(given, keys, lambda _: "command line"))
    return validate(GenerationSettings, settings, keys)


def tasks_of(run: Path) -> dict[str, dict[str, Any]]:
    """The tasks that a run was trained on, each with its parameters; none where it names no task."""
    recorded = read_config(run)
    shares, name = recorded.get("tasks"), recorded.get("task")
    if isinstance(shares, Mapping) and shares:
        return {str(task): dict(share.get("config") or {}) for task, share in shares.items()}
    return {str(name): dict(recorded.get("task_config") or {})} if name else {}
