"""Preference reward model: uv run python -m reward_models.train_preference_rm

Of two answers to a prompt, the better one gets the higher reward, read at the last token of the conversation:

    loss = -log sigmoid(r_w - r_l - margin) + centering * (r_w + r_l)^2          Bradley and Terry, 1952
    loss = -sum_i log( exp r_i / sum_{j>=i} exp r_j )   for ranked lists         Plackett, 1975; Luce, 1959

For a ranked list the centering term is added too, of its best and worst. RLHF Book, chapter 5. The loop is `fit.py`;
this script names the data, the model, the objective (`losses.py`), and the shortcuts that the model has to beat.
"""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from reward_models.config import PreferenceConfig
from reward_models.look import look
from reward_models.plan import plan
from rlhf.config.command import Command, read_command
from rlhf.errors import run_main
from rlhf.run.command import run_command

if TYPE_CHECKING:
    from rlhf.run.result import RunResult

DEFAULT = Path(__file__).parent / "configs" / "preference_rm.yaml"


def train(command: Command[PreferenceConfig]) -> "RunResult":
    from reward_models import shortcuts
    from reward_models.fit import METRICS, fit, load_model
    from reward_models.losses import preference_objective
    from reward_models.preference_data import preference_data
    from rlhf.run.session import open_session

    config = command.config
    with open_session(command, METRICS, title="Preference RM", headline=["loss"]) as session:
        split = preference_data(config, session.load_tokenizer(), session.console.say)
        model, tokenizer = load_model(session, config)
        session.describe(data=f"pairs of {split.name}", data_fingerprint=split.fingerprint)
        baselines = shortcuts.of_preference(split.train, split.held_out, data="held-out")
        for warning in shortcuts.warnings(baselines, chance=0.5):
            session.advise(0, warning)
        return fit(session, config, model, tokenizer, split, preference_objective(config), baselines)


def read(argv: Sequence[str]) -> Command[PreferenceConfig]:
    """The command line, without the program's name, as a command."""
    return read_command(
        PreferenceConfig,
        list(argv),
        prog="python -m reward_models.train_preference_rm",
        description="Train a reward model on preferences between answers.",
        default_config=DEFAULT,
    )


def main() -> int:
    return run_command(read(sys.argv[1:]), train, partial(plan, "Preference RM"), look)


if __name__ == "__main__":
    sys.exit(run_main(main, debug="--debug" in sys.argv))
