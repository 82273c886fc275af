"""Outcome reward model: uv run python -m reward_models.train_orm

Is a solution right? Binary cross-entropy at every token of it, or at the last alone; the score is the last one's logit:

    loss = -sum_t [ y log p_t + (1 - y) log(1 - p_t) ] / tokens of the step      Cobbe et al., 2021, arXiv 2110.14168

All candidates of a question share its row. RLHF Book, chapter 5. The loop is `fit.py`.
"""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from reward_models.config import OutcomeConfig
from reward_models.look import look
from reward_models.plan import plan
from rlhf.config.command import Command, read_command
from rlhf.errors import run_main
from rlhf.run.command import run_command

if TYPE_CHECKING:
    from rlhf.run.result import RunResult

DEFAULT = Path(__file__).parent / "configs" / "orm.yaml"


def train(command: Command[OutcomeConfig]) -> "RunResult":
    from reward_models import shortcuts
    from reward_models.fit import METRICS, fit, load_model
    from reward_models.losses import outcome_objective
    from reward_models.outcome_data import outcome_data
    from rlhf.run.session import open_session

    config = command.config
    with open_session(command, METRICS, title="Outcome RM", headline=["loss"]) as session:
        split = outcome_data(config, session.load_tokenizer(), session.console.say)
        model, tokenizer = load_model(session, config)
        session.describe(data=f"solutions of {split.name}", data_fingerprint=split.fingerprint)
        baselines = shortcuts.of_outcome(split.train, split.held_out, data="held-out")
        for warning in shortcuts.warnings(baselines, chance=0.5):
            session.advise(0, warning)
        return fit(session, config, model, tokenizer, split, outcome_objective(config), baselines)


def read(argv: Sequence[str]) -> Command[OutcomeConfig]:
    """The command line, without the program's name, as a command."""
    return read_command(
        OutcomeConfig,
        list(argv),
        prog="python -m reward_models.train_orm",
        description="Train a reward model to tell right solutions from wrong ones.",
        default_config=DEFAULT,
    )


def main() -> int:
    return run_command(read(sys.argv[1:]), train, partial(plan, "Outcome RM"), look)


if __name__ == "__main__":
    sys.exit(run_main(main, debug="--debug" in sys.argv))
