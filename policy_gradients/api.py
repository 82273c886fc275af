"""Policy gradients from Python: `from policy_gradients import run`. Light: PyTorch is loaded by a run."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from policy_gradients.config import PolicyGradientConfig
from rlhf.run.from_python import Model, as_path, call, named_functions

if TYPE_CHECKING:
    import os

    from transformers import PreTrainedTokenizerBase

    from rlhf.run.result import RunResult

type Prompts = "str | os.PathLike[str] | Iterable[str | Mapping[str, Any]]"
type Function = "Callable[..., Any] | str"  # itself, or its name: file.py:function, package.module:function
type Reward = "Function | Sequence[Function] | Mapping[Function, float]"


def run(
    *,
    algorithm: str | None = None,
    model: "Model | None" = None,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    prompts: "Prompts | None" = None,
    reward: "Reward | None" = None,
    quiet: bool = True,
    **settings: Any,
) -> "RunResult":
    """Train a policy on the reward of its own completions.

        result = run(algorithm="grpo", model="Qwen/Qwen3-0.6B", prompts=["Say: ..."], reward=brevity, max_steps=20)
        result.model, result.metrics[-1]["reward/mean"], result.path

    It does what `python -m policy_gradients.train` does with the same settings, and starts from the same files.

    Args:
        algorithm: such as grpo (None), rloo, ppo; its file in policy_gradients/configs has the other settings.
        model: a Hub id, a folder, a run directory or a `PreTrainedModel`, which stays as it is: a copy is trained.
            None: that of the algorithm's file.
        tokenizer: of a model that is handed over; None: the one that `model.name_or_path` names.
        prompts: what to complete: texts, or rows with `prompt` (text or messages), perhaps `answer`, and whatever else
            the reward functions ask for; or the name of a file, folder or Hub set with such rows. None: the task of the
            settings.
        reward: one function or several, each a component of the reward with weight 1, or a mapping to weights. A
            function takes (prompt, completion, ...) for one completion, or (prompts, completions, ...) for a batch.
        quiet: print nothing; False: what the command prints.
        settings: any other setting of `python -m policy_gradients.train --help` by its name, groups as mappings:
            `lr=1e-5`, `reward_weights={"format": 0.1}`, `profile="laptop"`, `output_dir="runs/mine"`, `resume=True`.

    Returns:
        Model and tokenizer as they are in `path / "final"`, metrics, evaluations, samples, and the run directory.

    Raises:
        UserError: a setting, a row or a function cannot be used; the message says which and what is accepted.
        KeyboardInterrupt: the run was interrupted before its first step. Later, it is saved, and the result is not
            `finished`.
    """
    from policy_gradients.look import look
    from policy_gradients.train import read, train

    given = dict(settings) if algorithm is None else {"algorithm": algorithm, **settings}
    functions: dict[str, Callable[..., Any]] = {}
    if prompts is not None:
        path = as_path(prompts if isinstance(prompts, str) else _rows(prompts), key="prompts")
        given |= {"task": "prompts", "task_config": {"path": path, **settings.get("task_config", {})}}
    if reward is not None:
        given["reward_functions"], functions = named_functions(reward)
    objects: dict[str, Any] = {"model": model, "tokenizer": tokenizer, "functions": functions}
    return call(read, train, look, PolicyGradientConfig, given, quiet=quiet, **objects)


def _rows(prompts: "Prompts") -> Any:
    """A text is a row with that prompt; the name of a file stays one."""
    if not isinstance(prompts, Iterable):
        return prompts
    return [{"prompt": row} if isinstance(row, str) else row for row in prompts]
