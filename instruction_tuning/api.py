"""Instruction tuning from Python: `from instruction_tuning import run`. Light: PyTorch is loaded by a run."""

from typing import TYPE_CHECKING, Any

from instruction_tuning.config import InstructionTuningConfig
from rlhf.run.from_python import Model, Rows, call, data_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from rlhf.run.result import RunResult


def run(
    *,
    model: "Model | None" = None,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    conversations: "Rows | None" = None,
    quiet: bool = True,
    **settings: Any,
) -> "RunResult":
    """Train a model on demonstrations (SFT).

        talk = [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]
        result = run(model="Qwen/Qwen3-0.6B", conversations=[{"messages": talk}, ...], max_steps=100)

    It does what `python -m instruction_tuning.train` does with the same settings.

    Args:
        model: a Hub id, a folder, a run directory or a `PreTrainedModel`, which stays as it is: a copy is trained.
        tokenizer: of a model that is handed over; None: the one that `model.name_or_path` names.
        conversations: rows with `messages`, or `prompt` and `completion`, or of another form that the command reads; or
            the name of a file, folder or Hub set with such rows.
        quiet: print nothing; False: what the command prints.
        settings: any other setting of `python -m instruction_tuning.train --help` by its name, groups as mappings.

    Returns:
        Model and tokenizer as they are in `path / "final"`, metrics, evaluations, samples, and the run directory.

    Raises:
        UserError: a setting or a row cannot be used; the message says which and what is accepted.
        KeyboardInterrupt: the run was interrupted before its first step. Later, it is saved, and the result is not
            `finished`.
    """
    from instruction_tuning.look import look
    from instruction_tuning.train import read, train

    given = dict(settings)
    given |= data_of(conversations, settings, key="conversations")
    return call(read, train, look, InstructionTuningConfig, given, model=model, tokenizer=tokenizer, quiet=quiet)
