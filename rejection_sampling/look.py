"""What a config names, looked at before PyTorch is loaded: models and tasks."""

from rejection_sampling.config import RejectionSamplingConfig
from rlhf.models.names import find_folder, refuse_missing_policy
from rlhf.tasks.names import look_at_tasks


def look(config: RejectionSamplingConfig) -> None:
    """Raises: UserError, if something that the config names is not there."""
    look_at_tasks(config)
    refuse_missing_policy(config)
    for name in config.reward_models:
        find_folder(name, key="reward_model")
