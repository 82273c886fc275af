"""Direct alignment from Python: `from direct_alignment import run`. Light: PyTorch is loaded by a run."""

from typing import TYPE_CHECKING, Any

from direct_alignment.config import DirectAlignmentConfig, read
from rlhf.run.from_python import Model, Rows, call, data_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from rlhf.run.result import RunResult


def run(
    *,
    loss: str | None = None,
    model: "Model | None" = None,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    pairs: "Rows | None" = None,
    quiet: bool = True,
    **settings: Any,
) -> "RunResult":
    """Learn from preferences: DPO and its family.

        result = run(loss="dpo", model="Qwen/Qwen3-0.6B", pairs=[{"prompt": p, "chosen": a, "rejected": b}, ...])

    It does what `python -m direct_alignment.train` does with the same settings.

    Args:
        loss: such as dpo (None), ipo, simpo, kto; its file in direct_alignment/configs has the other settings.
        model: a Hub id, a folder, a run directory or a `PreTrainedModel`, which stays as it is: a copy is trained.
        tokenizer: of a model that is handed over; None: the one that `model.name_or_path` names.
        pairs: rows with `prompt`, `chosen` and `rejected`, or `prompt`, `completion` and `label` for a loss that takes
            such (kto), or of another form that the command reads; or the name of a file, folder or Hub set with them.
        quiet: print nothing; False: what the command prints.
        settings: any other setting of `python -m direct_alignment.train --help` by its name, groups as mappings.

    Returns:
        Model and tokenizer as they are in `path / "final"`, metrics, evaluations, samples, and the run directory.

    Raises:
        UserError: a setting or a row cannot be used; the message says which and what is accepted.
        KeyboardInterrupt: the run was interrupted before its first step. Later, it is saved, and the result is not
            `finished`.
    """
    from direct_alignment.look import look
    from direct_alignment.train import train

    given = dict(settings) if loss is None else {"loss": loss, **settings}
    given |= data_of(pairs, settings, key="pairs")
    return call(read, train, look, DirectAlignmentConfig, given, model=model, tokenizer=tokenizer, quiet=quiet)
