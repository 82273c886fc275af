"""What can be set for direct alignment, and how the command line is read. Light: torch is not loaded here."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

from pydantic import Field, model_validator

from rlhf.config.command import Command, read_command
from rlhf.config.paths import PathName
from rlhf.config.reference import ReferenceConfig
from rlhf.config.schema import Section
from rlhf.config.trainer import TrainerConfig
from rlhf.errors import nearest

CONFIGS = Path(__file__).parent / "configs"
LossName = Literal[
    "dpo",
    "dpo_norm",
    "cdpo",
    "robust",
    "ipo",
    "hinge",
    "simpo",
    "orpo",
    "kto",
    "apo_zero",
    "apo_down",
    "exo",
    "nca",
    "bco",
    "sppo_hard",
    "aot",
    "discopop",
    "dpo_nll",
    "cpo",
    "ld_dpo",
    "wpo",
    "alphapo",
    "fdpo_alpha",
    "fdpo_js",
]
# Written down, so that --help needs no torch; a test compares them with `losses`.
LOSS_NAMES = list(get_args(LossName))


class DataConfig(Section):
    path: PathName = Field(
        "on_policy",
        description="A Hub data set, a .jsonl/.json/.parquet/.csv file, a folder, or 'on_policy': pairs of the "
        "model's own completions, right and wrong.",
    )
    split: str = Field("train", description="Split of a Hub data set or a folder, or a slice such as train[:1%].")
    held_out: int = Field(500, gt=0, description="Pairs kept for evaluation (of a set, at most a fifth).")
    problems: int = Field(2000, gt=0, description="on_policy: problems of the task that completions are sampled for.")
    candidates: int = Field(4, gt=1, description="Completions sampled for each problem, on_policy and online.")
    per_problem: int = Field(1, gt=0, description="Pairs made of a problem's completions, at most.")


class LossConfig(TrainerConfig):
    """The loss; a setting that is null has the loss's own published value"""

    loss: str = Field("dpo", description=f"One of {', '.join(LOSS_NAMES)}.")
    beta: float | None = Field(
        None, gt=0, description="Scale of the score: 1/nats; for ipo and sppo_hard, of 1/target."
    )
    label_smoothing: float | None = Field(
        None, ge=0, lt=0.5, description="Probability that a preference is wrong (cdpo, robust, exo, aot)."
    )
    gamma_beta_ratio: float | None = Field(None, ge=0, description="simpo, alphapo: target margin in nats per token.")
    orpo_lambda: float | None = Field(None, ge=0, description="orpo: weight of the odds ratio.")
    desirable_weight: float | None = Field(None, ge=0, description="kto: weight of wanted completions.")
    undesirable_weight: float | None = Field(None, ge=0, description="kto: weight of unwanted completions.")
    discopop_tau: float | None = Field(None, gt=0, lt=1, description="discopop: temperature of its blend.")
    nll_alpha: float | None = Field(
        None, ge=0, description="dpo_nll, cpo: weight of the negative log-likelihood of the chosen completion."
    )
    ld_alpha: float | None = Field(
        None, ge=0, le=1, description="ld_dpo: weight of the tokens by which a completion is longer; 1 is dpo."
    )
    alphapo_alpha: float | None = Field(None, ge=0, description="alphapo: shape of the reward; 0 is simpo.")
    f_alpha: float | None = Field(
        None, ge=0, le=1, description="fdpo_alpha: 0 is KL(policy || reference), 1 is KL(reference || policy)."
    )
    ipo_sum: bool | None = Field(None, description="ipo: sums over tokens of the log-ratios instead of their means.")
    reference: Literal["initial", "none"] | None = Field(
        None,
        description="initial (null): the model as it was loaded, or what is under its LoRA adapters. none: do not load "
        "it, for losses that need none; then KL is not measured.",
    )


class DirectAlignmentConfig(LossConfig, ReferenceConfig):
    """Direct alignment"""

    common: ClassVar[tuple[str, ...]] = (
        *("model_name", "loss", "beta", "data.path", "task", "max_samples", "max_steps", "batch_size", "max_length"),
        *("lr", "lora_rank", "eval_every", "seed", "output_dir"),
    )
    topics: ClassVar[dict[str, str]] = {
        "sync_reference_every": "The reference",
        "max_samples": "Pairs and their lengths",
        "task": "The task, which judges what the policy writes",
        "eval_problems": "Evaluation",
    }

    sync_reference_every: int = Field(0, ge=0, description="Steps after which the reference follows; 0: it is frozen.")
    sync_reference_mix: float = Field(0.6, gt=0, le=1, description="How far it moves to the policy: 1 all the way.")

    # what it learns from
    data: DataConfig = Field(DataConfig(), description="What to learn from.")
    max_samples: int = Field(0, ge=0, description="Train on at most so many pairs; 0 is all.")
    max_steps: int = Field(200, gt=0, description="Optimizer steps.")
    batch_size: int = Field(32, gt=0, description="Pairs in an optimizer step, over all processes.")
    max_length: int = Field(1024, gt=1, description="Tokens of a prompt with its longer completion.")
    truncation: Literal["keep_end", "keep_start"] = Field(
        "keep_end", description="Too long: shorten the prompt at its start, or the completions at their end."
    )
    online_every: int = Field(
        0, ge=0, description="Sample new pairs from the policy every so many steps; 0: the data stay as they are."
    )

    # the task, for pairs of the policy's own and for judging what it writes
    task: str | None = Field(None, description="A task of reasoning-gym, step_arithmetic, or prompts; null: none.")
    task_config: dict[str, Any] = Field({}, description="The task's own parameters.")
    answer_in: Literal["think_tags", "answer_tag", "last_number", "text"] = Field(
        "think_tags",
        description="Where the answer stands: <think>..</think><answer>..</answer>, <answer> alone, or all.",
    )
    system_prompt: str | None = Field(None, description="Said to the model first, where a prompt has none of its own.")
    max_new_tokens: int = Field(64, gt=0, description="Tokens at which a sampled completion is cut.")

    # evaluation
    eval_problems: int = Field(500, gt=0, description="Held-out problems of the task.")
    eval_samples: int = Field(200, ge=0, description="Completions sampled to measure KL and length; 0: not measured.")

    @property
    def keeps_reference(self) -> bool:
        """Whether a reference stays in memory while the policy learns; else what it says is computed once."""
        return bool(self.online_every or self.sync_reference_every)

    @model_validator(mode="after")
    def _fits_together(self) -> "DirectAlignmentConfig":
        if self.loss not in LOSS_NAMES:
            raise ValueError(f"loss: there is no '{self.loss}': {nearest(self.loss, LOSS_NAMES)}".rstrip(": "))
        if self.task is None and (self.data.path == "on_policy" or self.online_every):
            asked = "online_every" if self.online_every else "data.path on_policy"
            raise ValueError(f"{asked} needs a task, which tells right completions from wrong")
        if self.sync_reference_every and self.reference == "none":
            raise ValueError("sync_reference_every: there is no reference to move with reference none")
        if not self.sync_reference_every:
            self.refuse_idle(
                "sync_reference_mix", because="the reference stays", cure="--sync_reference_every 50, for example."
            )
        if self.reference == "none" or not self.keeps_reference:
            self.refuse_idle(
                "offload_reference",
                because="no reference is kept in memory",
                cure="--online_every 5 or --sync_reference_every 50, for example.",
            )
        return self


TASK_KEYS = ("task", "task_config", "answer_in")
LOSS_KEYS = sorted(LossConfig.model_fields.keys() - TrainerConfig.model_fields.keys() - {"loss"})


def read(argv: Sequence[str]) -> Command[DirectAlignmentConfig]:
    """The command; its notes name the settings of the file that do not hold.

    `--loss X` alone takes X's own file if there is one. In a file made for another loss, settings that belong to the
    loss are not X's: they are left out, so that X has its published values, unless the command line gives others.
    `--data.path FILE` alone leaves out the task that the config has for pairs of the model's own: what is measured then
    is held-out pairs.
    """
    from direct_alignment.published import fill

    command = read_command(
        DirectAlignmentConfig,
        list(argv),
        prog="python -m direct_alignment.train",
        description="Learn from preferences: DPO and its family.",
        default_config=CONFIGS / "dpo.yaml",
        named_by="loss",
        void=_void,
        fill=fill,
    )
    named = any(word.startswith("--config") for word in argv)
    notes = []
    for key, value in command.left_out.items():
        if key == "task":
            notes.append(
                f"the task {value} belongs to pairs that the model samples, and is left out; --task NAME evaluates one"
            )
        elif key in LOSS_KEYS and named:
            notes.append(f"{key} {value} is not {command.config.loss}'s: left out")
    return replace(command, notes=tuple(notes))


def _void(file: Mapping[str, Any], given: Mapping[str, Any]) -> tuple[list[str], str | None]:
    keys, name = _of_another_loss(file, given)
    return [*keys, *_of_own_pairs(file, given)], name


def _of_own_pairs(file: Mapping[str, Any], given: Mapping[str, Any]) -> tuple[str, ...]:
    """Keys of the task that a file samples pairs of, where the command line names other pairs and no task."""
    path = given.get("data.path", "on_policy")
    sampled = file.get("data.path", DataConfig.model_fields["path"].default) == "on_policy"
    return TASK_KEYS if sampled and path != "on_policy" and "task" not in given else ()


def _of_another_loss(file: Mapping[str, Any], given: Mapping[str, Any]) -> tuple[list[str], str | None]:
    """Keys of a file that are its loss's own, where the command line asks for another loss; and the run's name then."""
    loss = given.get("loss")
    other = loss is not None and loss != file.get("loss", "dpo")
    return (LOSS_KEYS, str(loss)) if other else ([], None)
