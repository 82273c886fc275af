"""Reward models from Python: `from reward_models import run`. Light: PyTorch is loaded by a run."""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, get_args

from reward_models.config import OutcomeConfig, PreferenceConfig, ProcessConfig
from rlhf.errors import UserError, nearest
from rlhf.run.from_python import Model, Rows, call, data_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from rlhf.run.result import RunResult

type Kind = Literal["preference", "orm", "prm"]
COMMANDS = {
    "preference": ("reward_models.train_preference_rm", PreferenceConfig),
    "orm": ("reward_models.train_orm", OutcomeConfig),
    "prm": ("reward_models.train_prm", ProcessConfig),
}


def run(
    *,
    kind: Kind = "preference",
    model: "Model | None" = None,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    rows: "Rows | None" = None,
    quiet: bool = True,
    **settings: Any,
) -> "RunResult":
    """Train a reward model.

        result = run(kind="preference", model="Qwen/Qwen3-0.6B", rows=[{"prompt": p, "chosen": a, "rejected": b}, ...])

    It does what `python -m reward_models.train_preference_rm` (`train_orm`, `train_prm`) does with the same settings.

    Args:
        kind: "preference" tells the better answer, "orm" right solutions from wrong ones, "prm" right steps from wrong.
        model: a Hub id, a folder, a run directory or a `PreTrainedModel`, which stays as it is: a copy is trained.
        tokenizer: of a model that is handed over; None: the one that `model.name_or_path` names.
        rows: pairs or rankings, solutions with labels, or steps with labels, in a form that the command reads; or the
            name of a file, folder or Hub set with such rows.
        quiet: print nothing; False: what the command prints.
        settings: any other setting of the command's `--help` by its name, groups as mappings.

    Returns:
        Model and tokenizer as they are in `path / "final"`, metrics, evaluations, samples, and the run directory.

    Raises:
        UserError: a setting or a row cannot be used; the message says which and what is accepted.
        KeyboardInterrupt: the run was interrupted before its first step. Later, it is saved, and the result is not
            `finished`.
    """
    from reward_models.look import look

    if kind not in COMMANDS:
        raise UserError(f"kind is {kind!r}; {nearest(str(kind), get_args(Kind.__value__))}")
    module, config_class = COMMANDS[kind]
    command: Any = import_module(module)
    given = dict(settings)
    given |= data_of(rows, settings, key="rows")
    return call(command.read, command.train, look, config_class, given, model=model, tokenizer=tokenizer, quiet=quiet)
