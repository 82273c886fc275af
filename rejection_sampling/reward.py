"""The reward model of a run, if it has one."""

from rejection_sampling.answered import Score
from rejection_sampling.config import RejectionSamplingConfig
from rlhf.models.reward_model import RewardModel
from rlhf.tasks.problem import messages_for


def load_reward_model(config: RejectionSamplingConfig) -> Score | None:
    """The reward model that the config names, one or an ensemble; it sees the same system prompt as the policy.

    Raises:
        UserError: the config names something that is no reward model.
    """
    if not config.reward_models:
        return None
    model = RewardModel.of(config)
    return lambda answered: model.score([(messages_for(it, config.system_prompt), answers) for it, answers in answered])
