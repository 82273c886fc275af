"""What a config names, looked at before PyTorch is loaded: the model, the data, the tasks."""

from instruction_tuning.config import InstructionTuningConfig
from rlhf.data.rows import refuse_missing
from rlhf.models.names import refuse_missing_policy
from rlhf.tasks.names import refuse_unknown_task


def look(config: InstructionTuningConfig) -> None:
    """Raises: UserError, if something that the config names is not there."""
    if config.data.path == "demonstrations":
        for task, parameters in config.data.tasks.items():
            refuse_unknown_task(task, parameters, key="data.tasks")
    else:
        refuse_missing(config.data.path)
    refuse_missing_policy(config)
