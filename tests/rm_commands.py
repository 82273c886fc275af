"""Calling this family's commands as a user would, in this process, and runs of a few seconds."""

from pathlib import Path

from commands import Caller, Outcome

import reward_models.evaluate
import reward_models.sample
import reward_models.score
import reward_models.train_orm
import reward_models.train_preference_rm
import reward_models.train_prm

TRAIN = {
    "preference": reward_models.train_preference_rm.main,
    "outcome": reward_models.train_orm.main,
    "process": reward_models.train_prm.main,
}
FEW = 30  # resamples of a bootstrap, whose intervals test_metrics.py looks at
MODULES = {"preference": "train_preference_rm", "outcome": "train_orm", "process": "train_prm"}
SMALL = [
    *("--profile", "laptop", "--data.problems", "60", "--data.held_out", "20", "--data.validation", "10"),
    *("--data.candidates", "6", "--max_steps", "4", "--batch_size", "8", "--eval_every", "2", "--save_every", "1"),
]


class Commands(Caller):
    def train(self, kind: str, *arguments: str | Path) -> Outcome:
        return self._call(TRAIN[kind], arguments)

    def evaluate(self, *arguments: str | Path) -> Outcome:
        return self._call(reward_models.evaluate.main, arguments)

    def score(self, *arguments: str | Path) -> Outcome:
        return self._call(reward_models.score.main, arguments)

    def sample(self, *arguments: str | Path) -> Outcome:
        return self._call(reward_models.sample.main, arguments)
