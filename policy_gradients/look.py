"""What a config names, looked at before PyTorch is loaded: models, tasks, files."""

from policy_gradients.config import PolicyGradientConfig
from policy_gradients.reward_loading import load_function
from rlhf.judges.config import is_file, read_rubric, refuse_missing_judge
from rlhf.models.names import find_folder, refuse_missing_policy
from rlhf.servers.look import refuse_missing_server
from rlhf.tasks.names import look_at_tasks


def look(config: PolicyGradientConfig) -> None:
    """Raises: UserError, if something that the config names is not there."""
    look_at_tasks(config)
    for spec in config.reward_functions:
        if is_file(spec):
            refuse_missing_judge(read_rubric(spec, key="reward_functions"), key=f"reward_functions: {spec}: model")
        else:
            load_function(spec)
    refuse_missing_policy(config)
    for name in config.reward_models:
        find_folder(name, key="reward_model")
    refuse_missing_server(config)
