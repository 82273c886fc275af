"""What a config names, looked at before PyTorch is loaded: models, tasks, files."""

from distillation.config import DistillationConfig
from distillation.teacher_prompts import refuse_unfit_prompt
from rlhf.data.rows import refuse_missing
from rlhf.models.names import find_policy, refuse_missing_policy
from rlhf.tasks.names import look_at_tasks


def look(config: DistillationConfig) -> None:
    """Raises: UserError, if something that the config names is not there, or cannot be put together."""
    look_at_tasks(config)
    if config.on_policy_share < 1 and config.texts.path != "teacher":
        refuse_missing(config.texts.path, key="texts.path")
    refuse_unfit_prompt(config)
    refuse_missing_policy(config)
    if not config.is_self:
        for name in config.teacher_names:
            find_policy(name, key="teachers" if config.teachers else "teacher")
