"""What a config names, looked at before PyTorch is loaded: the models, the data, the task."""

from reward_models.config import RewardModelConfig
from rlhf.data.rows import refuse_missing
from rlhf.models.names import find_model, find_policy
from rlhf.tasks.names import refuse_unknown_task


def look(config: RewardModelConfig) -> None:
    """Raises: UserError, if something that the config names is not there."""
    data = config.data
    if data.path != "samples":
        refuse_missing(data.path)
    else:
        refuse_unknown_task(data.task, data.task_config, key="data.task")
    find_model(config)
    if data.path == "samples":
        find_policy(data.policy, key="data.policy")
