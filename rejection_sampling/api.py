"""Rejection sampling from Python: `from rejection_sampling import run`. Light: PyTorch is loaded by a run."""

from typing import TYPE_CHECKING, Any

from rejection_sampling.config import RejectionSamplingConfig
from rlhf.run.from_python import Model, Rows, as_path, call

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from rlhf.run.result import RunResult


def run(
    *,
    selection: str | None = None,
    model: "Model | None" = None,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    prompts: "Rows | None" = None,
    quiet: bool = True,
    **settings: Any,
) -> "RunResult":
    """Train a policy on the best of its own completions.

        asked = [{"prompt": "2 + 2?", "answer": "4"}, ...]
        result = run(model="Qwen/Qwen3-0.6B", prompts=asked, task_config={"match": "number"}, max_steps=30)
        result = run(selection="top_k_overall", reward_model="runs/preference_rm-seed0")

    It does what `python -m rejection_sampling.train` does with the same settings, and starts from the same files.

    Args:
        selection: such as top_per_prompt (None), top_k_overall; its file in rejection_sampling/configs has the other
            settings.
        model: a Hub id, a folder, a run directory or a `PreTrainedModel`, which stays as it is: a copy is trained.
            None: that of the selection's file.
        tokenizer: of a model that is handed over; None: the one that `model.name_or_path` names.
        prompts: rows with `prompt` (text or messages) and `answer`; or the name of a file, folder or Hub set with such
            rows. None: the task of the settings.
        quiet: print nothing; False: what the command prints.
        settings: any other setting of `python -m rejection_sampling.train --help` by its name, groups as mappings.

    Returns:
        Model and tokenizer as they are in `path / "final"`, metrics, evaluations, samples, and the run directory.

    Raises:
        UserError: a setting or a row cannot be used; the message says which and what is accepted.
        KeyboardInterrupt: the run was interrupted before its first step. Later, it is saved, and the result is not
            `finished`.
    """
    from rejection_sampling.look import look
    from rejection_sampling.train import read, train

    given = dict(settings) if selection is None else {"selection": selection, **settings}
    if prompts is not None:
        path = as_path(prompts, key="prompts")
        given |= {"task": "prompts", "task_config": {"path": path, **settings.get("task_config", {})}}
    return call(read, train, look, RejectionSamplingConfig, given, model=model, tokenizer=tokenizer, quiet=quiet)
