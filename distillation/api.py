"""Distillation from Python: `from distillation import run`. Light: PyTorch is loaded by a run."""

from typing import TYPE_CHECKING, Any

from distillation.config import DistillationConfig
from rlhf.run.from_python import Model, Rows, as_path, call

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from rlhf.run.result import RunResult


def run(
    *,
    method: str | None = None,
    model: "Model | None" = None,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    teacher: str | None = None,
    conversations: "Rows | None" = None,
    quiet: bool = True,
    **settings: Any,
) -> "RunResult":
    """Teach a student the distribution of a teacher.

        result = run(method="on_policy", model="Qwen/Qwen3-0.6B", teacher="Qwen/Qwen3-4B", task="spell_backward")

    It does what `python -m distillation.train` does with the same settings, and starts from the same files.

    Args:
        method: on_policy (None), offline or self: its file in distillation/configs has the other settings.
        model: the student: a Hub id, a folder, a run directory or a `PreTrainedModel`, which stays as it is: a copy is
            trained.
        tokenizer: of a model that is handed over; None: the one that `model.name_or_path` names.
        teacher: a Hub id, a folder or a run directory, with the student's tokenizer; None: that of the method's file.
        conversations: off-policy texts, as rows with `messages`, or `prompt` and `completion`; or the name of a file,
            folder or Hub set with such rows. None: those of the setting `texts`.
        quiet: print nothing; False: what the command prints.
        settings: any other setting of `python -m distillation.train --help` by its name, groups as mappings.

    Returns:
        Model and tokenizer as they are in `path / "final"`, metrics, evaluations, samples, and the run directory.

    Raises:
        UserError: a setting or a row cannot be used; the message says which and what is accepted.
        KeyboardInterrupt: the run was interrupted before its first step. Later, it is saved, and the result is not
            `finished`.
    """
    from distillation.look import look
    from distillation.train import read, train

    given = dict(settings) if method is None else {"config": method, **settings}
    if teacher is not None:
        given["teacher"] = teacher
    if conversations is not None:
        given["texts"] = {**settings.get("texts", {}), "path": as_path(conversations, key="conversations")}
    return call(read, train, look, DistillationConfig, given, model=model, tokenizer=tokenizer, quiet=quiet)
