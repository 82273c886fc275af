"""What a config names, looked at before PyTorch is loaded: the model, the data, the task."""

from direct_alignment.config import DirectAlignmentConfig
from rlhf.data.rows import refuse_missing
from rlhf.models.names import refuse_missing_policy
from rlhf.tasks.names import refuse_unknown_task


def look(config: DirectAlignmentConfig) -> None:
    """Raises: UserError, if something that the config names is not there."""
    if config.task:
        refuse_unknown_task(config.task, config.task_config)
    if config.data.path != "on_policy":
        refuse_missing(config.data.path)
    refuse_missing_policy(config)
