"""Process reward model: uv run python -m reward_models.train_prm

Is each step right? Cross-entropy over {wrong, neutral, right} at the token that ends a step, with all steps before it
in sight:

    loss = -sum_steps log p(label | question, steps up to this one) / labelled steps of the batch

Lightman et al., "Let's verify step by step", 2023, arXiv 2305.20050. RLHF Book, chapter 5. The loop is `fit.py`.
"""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from reward_models.config import ProcessConfig
from reward_models.look import look
from reward_models.plan import plan
from rlhf.config.command import Command, read_command
from rlhf.errors import run_main
from rlhf.run.command import run_command

if TYPE_CHECKING:
    from rlhf.run.result import RunResult

DEFAULT = Path(__file__).parent / "configs" / "prm.yaml"


def train(command: Command[ProcessConfig]) -> "RunResult":
    from reward_models import shortcuts
    from reward_models.fit import METRICS, fit, load_model
    from reward_models.losses import process_objective
    from reward_models.process_data import process_data
    from rlhf.run.session import open_session
    from rlhf.text.steps import CLASS_NAMES

    config = command.config
    with open_session(command, METRICS, title="Process RM", headline=["loss"]) as session:
        split = process_data(config, session.load_tokenizer(), session.console.say)
        model, tokenizer = load_model(session, config, CLASS_NAMES)
        model.config.step_separator, model.config.step_judged_at = config.separator, config.judged_at
        session.describe(data=f"steps of {split.name}", data_fingerprint=split.fingerprint)
        baselines = shortcuts.of_process(split.train, split.held_out, data="held-out")
        # The first baseline always says the most common class: its macro-F1 is that of chance.
        for warning in shortcuts.warnings(baselines[1:], chance=baselines[0].record["value"]):
            session.advise(0, warning)
        return fit(session, config, model, tokenizer, split, process_objective(), baselines)


def read(argv: Sequence[str]) -> Command[ProcessConfig]:
    """The command line, without the program's name, as a command."""
    return read_command(
        ProcessConfig,
        list(argv),
        prog="python -m reward_models.train_prm",
        description="Train a reward model to judge each step of a solution.",
        default_config=DEFAULT,
    )


def main() -> int:
    return run_command(read(sys.argv[1:]), train, partial(plan, "Process RM"), look)


if __name__ == "__main__":
    sys.exit(run_main(main, debug="--debug" in sys.argv))
