"""What can be set for the whole loop: a YAML file, of which pipeline/configs has one. Light: PyTorch is not loaded."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from rlhf.config.keys import all_keys, flatten
from rlhf.config.paths import PathName
from rlhf.config.schema import Section
from rlhf.config.validation import refuse_unknown, validate
from rlhf.config.yaml_file import find_config, load_yaml, read_bytes
from rlhf.errors import UserError, nearest

CONFIGS = Path(__file__).parent / "configs"
Trainer = Literal["policy_gradients", "rejection_sampling", "direct_alignment", "best_of_n"]
Family = Literal["policy_gradients", "rejection_sampling", "direct_alignment", "reward_models"]
Combine = Literal["mean", "min", "mean_minus_variance", "mean_minus_std"]
PROXY = "proxy"  # the reward model that an optimizer has unless it names another


class Preferences(Section):
    """Pairs of a right and a wrong completion of the policy, by the verifier; see direct_alignment.sample_pairs."""

    problems: int = Field(3000, gt=0, description="Problems that completions are sampled for.")
    candidates: int = Field(6, gt=1, description="Completions of each.")
    per_problem: int = Field(2, gt=0, description="Pairs of each at most.")
    label_noise: float = Field(0.1, ge=0, le=1, description="Probability that a pair is labelled by `noise` instead.")
    noise: Literal["swap", "longer"] = Field("swap", description="Choose the wrong completion, or the longer one.")


class Judged(Section):
    """Pairs that a reward model ranks, of other problems: what direct alignment learns from."""

    problems: int = Field(800, gt=0, description="Problems that completions are sampled for.")
    candidates: int = Field(6, gt=1, description="Completions of each, of which the best and the worst are a pair.")


class RewardModelStage(Section):
    """A preference reward model; see reward_models.train_preference_rm."""

    pairs: int = Field(0, ge=0, description="Learn from so many pairs, the first ones; 0: all.")
    member: int = Field(0, ge=0, description="Another number, another seed of its training: members of an ensemble.")
    settings: dict[str, Any] = Field({}, description="Of the trainer, beside those that are shared.")


class OptimizerStage(Section):
    """A line of the picture: a trainer with its settings, and the reward model that it optimizes."""

    label: str = Field(description="Its name in the picture and the table.")
    trainer: Trainer = Field(description="The family whose command makes the run; best_of_n trains nothing.")
    reward_model: str | list[str] = Field(PROXY, description="One of reward_models, or several: an ensemble.")
    combine: Combine = Field("mean", description="How an ensemble's rewards become one.")
    panels: list[str] = Field(["optimizers"], description="Rows of the picture that it is drawn in.")
    settings: dict[str, Any] = Field({}, description="Of the trainer, beside those that are shared.")

    @property
    def members(self) -> list[str]:
        return [self.reward_model] if isinstance(self.reward_model, str) else self.reward_model


class Evaluation(Section):
    """How every policy is measured, on held-out problems."""

    problems: int = Field(200, gt=1, description="Held-out problems, a completion of each at temperature 1.")
    best_of: int = Field(64, gt=1, description="Completions of each problem for best-of-n: the largest n.")
    best_of_problems: int = Field(100, gt=1, description="Held-out problems for best-of-n.")


class ChainConfig(Section):
    """The whole loop"""

    model_name: PathName = Field("embedded", description="The policy to start from: a model or a run of SFT.")
    task: str = Field("step_arithmetic", description="Of reasoning-gym, or step_arithmetic; its verifier is the gold.")
    task_config: dict[str, Any] = Field({}, description="Parameters of the task.")
    profile: Literal["auto", "laptop", "gpu"] = Field("auto", description="Of the families' own configs.")
    max_new_tokens: int = Field(64, gt=0, description="Tokens at which a completion is cut.")
    preferences: Preferences = Field(Preferences(), description="What the reward models learn from.")
    judged: Judged = Field(Judged(), description="What direct alignment learns from.")
    shared: dict[Family, dict[str, Any]] = Field({}, description="Settings that all runs of a family have, by family.")
    reward_models: dict[str, RewardModelStage] = Field(description="Reward models by name; one is `proxy`.")
    optimizers: dict[str, OptimizerStage] = Field(description="Lines of the picture by name.")
    evaluation: Evaluation = Field(Evaluation(), description="How all are measured.")


def read_config(name: str) -> ChainConfig:
    """The config of a file, or of the name of one in pipeline/configs.

    Raises:
        UserError: there is no such file, a key or value is not valid, or an optimizer names a reward model that is not
            there, or what its trainer does not take.
    """
    file = find_config(name, CONFIGS)
    tree, lines = load_yaml(read_bytes(file), str(file))
    keys = all_keys(ChainConfig)
    settings = flatten(tree, keys, lambda key: f"{file}:{lines.get(key, 1)}")
    refuse_unknown(keys, [settings])
    config = validate(ChainConfig, settings, keys)
    labels = [optimizer.label for optimizer in config.optimizers.values()]
    if twice := next((label for label in labels if labels.count(label) > 1), None):
        raise UserError(
            f"{file}: optimizers: two lines have the label '{twice}', by which the picture tells them apart"
        )
    for line, optimizer in config.optimizers.items():
        place = f"{file}:{lines.get(f'optimizers.{line}', 1)}: optimizers.{line}"
        for member in optimizer.members:
            if member not in config.reward_models:
                raise UserError(
                    f"{place}.reward_model: there is no '{member}' in reward_models; "
                    + nearest(member, config.reward_models)
                )
        if optimizer.trainer == "direct_alignment" and len(optimizer.members) > 1:
            raise UserError(f"{place}.reward_model: the pairs of direct_alignment are ranked by one reward model")
        if optimizer.trainer == "best_of_n" and optimizer.settings:
            raise UserError(f"{place}.settings: best_of_n trains nothing; see evaluation.best_of")
    return config
