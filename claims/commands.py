"""The commands that make the runs of claims, and the class of their settings."""

from collections.abc import Mapping

from direct_alignment.config import DirectAlignmentConfig
from distillation.config import DistillationConfig
from instruction_tuning.config import InstructionTuningConfig
from policy_gradients.config import PolicyGradientConfig
from rejection_sampling.config import RejectionSamplingConfig
from reward_models.config import OutcomeConfig, PreferenceConfig, ProcessConfig
from rlhf.config.trainer import TrainerConfig

COMMANDS: Mapping[str, type[TrainerConfig]] = {
    "policy_gradients.train": PolicyGradientConfig,
    "rejection_sampling.train": RejectionSamplingConfig,
    "direct_alignment.train": DirectAlignmentConfig,
    "distillation.train": DistillationConfig,
    "instruction_tuning.train": InstructionTuningConfig,
    "reward_models.train_preference_rm": PreferenceConfig,
    "reward_models.train_orm": OutcomeConfig,
    "reward_models.train_prm": ProcessConfig,
}
