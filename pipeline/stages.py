"""The runs that make the chain, each by a family's own command, in the order in which they need each other.

    preferences   pairs of the start policy's completions, labelled by the verifier with noise     a .jsonl file
    reward_models each on its share of the pairs                                                   run directories
    judged        pairs labelled by a reward model, for those that learn from pairs                .jsonl files
    optimizers    each against its reward model                                                    run directories

Where a run is finished it is used, and one that was stopped goes on (rlhf/run/sweep.py). A file of pairs has a digest
of its settings in its name, so that other settings are another file.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from direct_alignment.config import DirectAlignmentConfig
from pipeline.config import ChainConfig, OptimizerStage, RewardModelStage
from policy_gradients.config import PolicyGradientConfig
from rejection_sampling.config import RejectionSamplingConfig
from reward_models.config import PreferenceConfig
from rlhf.config.trainer import TrainerConfig
from rlhf.errors import UserError
from rlhf.run.planned import PlannedFile, merged, planned_file, planned_run
from rlhf.run.sweep import Planned

# Each sampling of problems has a stream of its own: what a policy is trained on is not what its reward model saw.
PREFERENCES, JUDGED = 100, 200
FAMILIES: Mapping[str, tuple[str, type[TrainerConfig]]] = {
    "policy_gradients": ("policy_gradients.train", PolicyGradientConfig),
    "rejection_sampling": ("rejection_sampling.train", RejectionSamplingConfig),
    "direct_alignment": ("direct_alignment.train", DirectAlignmentConfig),
    "reward_models": ("reward_models.train_preference_rm", PreferenceConfig),
}


@dataclass(frozen=True)
class Chain:
    """Everything that is made with one seed, in the folder of that seed."""

    config: ChainConfig
    seed: int
    folder: Path

    def stage(self, name: str) -> Sequence[Planned]:
        """The runs of a stage, see above."""
        config = self.config
        if name == "preferences":
            return [self.preferences]
        if name == "reward_models":
            used = {member for one in config.optimizers.values() for member in one.members}
            return [self.reward_model(model, stage) for model, stage in config.reward_models.items() if model in used]
        if name == "judged":
            return list({run.path: run for run in map(self.judged, self.learn_from_pairs)}.values())
        trained = {line: one for line, one in config.optimizers.items() if one.trainer != "best_of_n"}
        return [self.optimizer(line, one) for line, one in trained.items()]

    @property
    def learn_from_pairs(self) -> list[OptimizerStage]:
        return [one for one in self.config.optimizers.values() if one.trainer == "direct_alignment"]

    @property
    def preferences(self) -> PlannedFile:
        return self._pairs("preferences", PREFERENCES, self.config.preferences.model_dump())

    def judged(self, optimizer: OptimizerStage) -> PlannedFile:
        """Pairs that the optimizer's reward model ranks."""
        name = optimizer.members[0]
        learned_from = self.reward_model(name, self.config.reward_models[name]).config
        settings = self.config.judged.model_dump() | {"reward_model": str(self.path_of_model(name))}
        return self._pairs(f"judged-{name}", JUDGED, settings, made_by=learned_from)

    def _pairs(
        self, name: str, stream: int, settings: Mapping[str, Any], *, made_by: Mapping[str, Any] | None = None
    ) -> PlannedFile:
        """A file of pairs. `made_by`: settings of the run that labels them, for the digest."""
        config = self.config
        given: dict[str, Any] = {
            "model_name": config.model_name,
            "task": config.task,
            "task_config": config.task_config,
        }
        given |= {"max_new_tokens": config.max_new_tokens, "seed": stream + self.seed, **settings}
        digest = sha256(json.dumps([given, made_by], sort_keys=True).encode()).hexdigest()[:8]
        path = self.folder / f"{name}-{digest}.jsonl"
        return planned_file(f"{name}, seed {self.seed}", path, module="direct_alignment.sample_pairs", settings=given)

    def path_of_model(self, name: str) -> Path:
        return self.folder / "reward_models" / name

    def reward_model(self, name: str, stage: RewardModelStage) -> Planned:
        data = {"path": str(self.preferences.path), "size": stage.pairs}
        settings = {"seed": self.seed + 1000 * stage.member, "data": data}
        return self._run("reward_models", name, self.path_of_model(name), settings, stage.settings)

    def optimizer(self, name: str, stage: OptimizerStage) -> Planned:
        config = self.config
        settings: dict[str, Any] = {"seed": self.seed, "model_name": config.model_name}
        settings |= {"task": config.task, "task_config": config.task_config, "max_new_tokens": config.max_new_tokens}
        settings |= {"system_prompt": None, "answer_in": "think_tags"}  # as measure.py asks and reads
        settings |= {"keep_checkpoints": 1000}  # each is measured afterwards
        if stage.trainer == "direct_alignment":
            settings |= {"data": {"path": str(self.judged(stage).path)}}
        else:
            models = [str(self.path_of_model(member)) for member in stage.members]
            settings |= {"reward_model": models[0] if len(models) == 1 else models}
            settings |= {"reward_model_combine": stage.combine}
        return self._run(stage.trainer, name, self.folder / "optimizers" / name, settings, stage.settings)

    def _run(self, family: str, name: str, path: Path, own: Mapping[str, Any], chosen: Mapping[str, Any]) -> Planned:
        """The run of a family's command.

        Args:
            own: settings that the chain decides.
            chosen: those of the stage in the chain's config, which go over those that the family's runs share.

        Raises:
            UserError: the config sets what the chain decides, or the command refuses a setting.
        """
        chosen = merged(self.config.shared.get(family, {}), chosen)
        if both := sorted(dotted(chosen) & dotted(own)):
            raise UserError(f"{name}: {both[0]} is decided by the chain", "Leave it out of the settings.")
        module, config_class = FAMILIES[family]
        return planned_run(
            f"{name}, seed {self.seed}",
            path,
            module=module,
            config_class=config_class,
            settings=merged(own, chosen),
            profile=self.config.profile,
        )


def dotted(settings: Mapping[str, Any], prefix: str = "") -> set[str]:
    """The keys of nested settings: {"data": {"path": ..}} has data.path."""
    found: set[str] = set()
    for key, value in settings.items():
        found |= dotted(value, f"{prefix}{key}.") if isinstance(value, Mapping) and value else {f"{prefix}{key}"}
    return found
