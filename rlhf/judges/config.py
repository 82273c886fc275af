"""What a judge is, as settings: a model here or at an endpoint, and how it judges. A judge is named by one of

    embedded                                          a model's name, asked for its verdict
    {model: smollm2-135m, by: mean_logp}              settings
    {model: qwen3, url: http://localhost:8000/v1}     an OpenAI-compatible endpoint
    judge.yaml                                        a file with settings, a rubric perhaps

Light: nothing here loads PyTorch.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, model_validator

from rlhf.config.addresses import ApiAddress
from rlhf.config.keys import all_keys, flatten
from rlhf.config.paths import PathName, user_path
from rlhf.config.schema import Section
from rlhf.config.validation import refuse_unknown, validate
from rlhf.config.yaml_file import load_yaml, read_bytes, read_yaml
from rlhf.errors import UserError
from rlhf.models.names import find_policy

FILES = (".yaml", ".yml", ".json")

type Method = Literal["verdict", "mean_logp", "sum_logp", "min_logp"]
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class Criterion(Section):
    """A yes/no question about one answer"""

    ask: Text = Field(description="The question, such as: Does the answer end with a number?")
    weight: float = Field(1.0, gt=0, description="Its share of the rubric's score, relative to the other weights.")

    @model_validator(mode="before")
    @classmethod
    def _of_text(cls, given: Any) -> Any:
        return {"ask": given} if isinstance(given, str) else given


class JudgeConfig(Section):
    """A judge"""

    model: PathName = Field(description="A model's name, as model_name has it; or the name that the endpoint knows.")
    by: Method = Field(
        "verdict",
        description="verdict: the model is asked which answer is better. The others are of a model here: its own "
        "log-probability of each answer, as the mean or sum over tokens, or that of the least likely token.",
    )
    ask: Text = Field("Which answer is better?", description="The question that asks for a verdict on two answers.")
    swap: bool = Field(True, description="Ask for each verdict in both orders, and take the mean.")
    rubric: dict[Text, Criterion] = Field(
        {},
        description="Criteria by name, each a yes/no question, or {ask: .., weight: ..}. Each answer is judged alone, "
        "by their weighted mean.",
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="Where a model here is loaded.")

    url: ApiAddress | None = Field(
        None,
        description="OpenAI-compatible endpoint, such as http://localhost:8000/v1; null: load the model here.",
    )
    key_from: Text | None = Field(None, description="Environment variable that holds the endpoint's key.")
    temperature: float | None = Field(0.0, ge=0, description="Of the endpoint's replies; null leaves it to the server.")
    max_tokens: int | None = Field(512, gt=0, description="Of a reply with its thoughts; null leaves it to the server.")
    timeout_s: float = Field(60.0, gt=0, description="Seconds until a call counts as failed.")
    retries: int = Field(4, ge=0, le=20, description="Further tries of a call that failed, each after twice the wait.")
    concurrency: int = Field(8, gt=0, le=256, description="Calls that wait for the endpoint at the same time.")

    @property
    def name(self) -> str:
        """What a table calls it."""
        return f"{self.model} ({'rubric' if self.rubric else self.by})"

    @model_validator(mode="after")
    def _fits_together(self) -> "JudgeConfig":
        if self.by != "verdict" and self.url:
            raise ValueError(f"by: {self.by} needs the model's probabilities, which an endpoint does not tell")
        if self.by != "verdict" and self.rubric:
            raise ValueError(f"by: {self.by} compares answers, and a rubric judges each alone: leave one of them out")
        if self.key_from and not self.url:
            raise ValueError("key_from: a model that is loaded here needs no key; did you forget the url?")
        return self


def read_judge(spec: str, *, key: str = "judge") -> JudgeConfig:
    """The settings that a name, a file or a mapping stands for; see the top of this file.

    Args:
        key: of the setting that has it, for messages.

    Raises:
        UserError: there is no such file, or a setting is unknown or not valid.
    """
    if spec.lstrip().startswith("{"):
        return _validated(_mapping(spec, key), lambda _: key)
    if not spec.endswith(FILES):
        return _validated({"model": spec}, lambda _: key)
    file = user_path(spec)
    if not file.is_file():
        raise UserError(f"{key}: there is no file '{spec}'")
    tree, lines = load_yaml(read_bytes(file), str(file))
    return _validated(tree, lambda name: f"{file}:{lines.get(name, 1)}")


def read_rubric(file: str, *, key: str) -> JudgeConfig:
    """The settings of a file that has a rubric.

    Args:
        key: of the setting that names it, for messages.

    Raises:
        UserError: there is no such file, it has no rubric, or a setting is unknown or not valid.
    """
    config = read_judge(file, key=key)
    if not config.rubric:
        raise UserError(
            f"{key}: {file} has no rubric",
            hint="For example {model: embedded, rubric: {number: 'Does the answer end with a number?'}}.",
        )
    return config


def refuse_missing_judge(config: JudgeConfig, *, key: str = "judge") -> None:
    """See that what the settings name is there, without loading it: a server is asked for its models.

    Raises:
        UserError: the model's folder, the key's variable, the server or its model is missing.
    """
    if config.url is None:
        find_policy(config.model, key=key)
        return
    if config.key_from and not os.environ.get(config.key_from):
        raise UserError(
            f"{key}: key_from: the environment variable {config.key_from} is not set",
            hint=f"export {config.key_from}=...; the key itself is never written into a file or a log.",
        )
    from rlhf.judges.server import Server
    from rlhf.judges.usage import Usage

    Server(config, Usage()).refuse_unserved_model()


def _mapping(spec: str, key: str) -> Mapping[str, Any]:
    try:
        tree = read_yaml(spec)
    except UserError as error:
        raise UserError(f"{key}: {spec[:60]}, {error.message}") from error
    if not isinstance(tree, dict):
        raise UserError(f"{key}: {spec[:60]} is no mapping such as {{model: NAME}}")
    return tree


def _validated(tree: Mapping[str, Any], origin: Callable[[str], str]) -> JudgeConfig:
    keys = all_keys(JudgeConfig)
    settings = flatten(tree, keys, origin)
    refuse_unknown(keys, [settings])
    if "model" not in settings:
        raise UserError(f"{origin('model')}: model is not set; accepted: a model's name, or that of the endpoint")
    return validate(JudgeConfig, settings, keys)


def is_file(spec: str) -> bool:
    """Whether a spec names a file of settings."""
    return Path(spec).suffix in FILES
