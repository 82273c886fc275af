"""The reward model of a run, as it is asked: with problems and completions of them."""

from collections.abc import Callable, Sequence

from rlhf.config.scoring import ScoringConfig
from rlhf.data.answers import Answer
from rlhf.tasks.problem import Problem, messages_for

type Answered = tuple[Problem, Sequence[Answer | str]]  # a problem with completions
type RewardModelScore = Callable[[Sequence[Answered]], list[list[float]]]  # one number for each completion


def load_reward_model(config: ScoringConfig, *, system_prompt: str | None) -> RewardModelScore | None:
    """The reward model that the config names, one or an ensemble; None if it names none.

    Args:
        system_prompt: that of the policy, which the reward model sees too.

    Raises:
        UserError: the config names something that is no reward model.
    """
    if not config.reward_models:
        return None
    from rlhf.models.reward_model import RewardModel

    model = RewardModel.of(config)
    return lambda answered: model.score([(messages_for(it, system_prompt), answers) for it, answers in answered])
