"""What can be set for distillation. Light: `--help` and errors in a config come before PyTorch is loaded."""

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from rlhf.config.paths import PathName
from rlhf.config.sampling import SamplingConfig
from rlhf.config.schema import COLDEST, Section

JSD_BETA = 0.5  # the symmetric one


class TextsConfig(Section):
    path: PathName = Field(
        "teacher",
        description="Off-policy texts: 'teacher', which answers problems of the task, or a file, folder or Hub set of "
        "conversations.",
    )
    split: str = Field("train", description="Split of a Hub data set or a folder, or a slice such as train[:1%].")
    problems: int = Field(500, gt=0, description="Problems that the teacher answers, group_size times each.")
    max_length: int = Field(1024, gt=1, description="Longest conversation of a file, tokens; longer ones are not used.")


class DistillationConfig(SamplingConfig):
    """Distillation"""

    common: ClassVar[tuple[str, ...]] = (
        *("model_name", "teacher", "objective", "on_policy_share", "teacher_sees", "task", "task_config", "max_steps"),
        *("prompts_per_step", "group_size", "max_new_tokens", "lr", "lora_rank", "eval_every", "seed", "output_dir"),
    )
    topics: ClassVar[dict[str, str]] = {
        "teacher": "The teacher",
        "objective": "The objective",
        "on_policy_share": "Texts",
        "steps_per_batch": "Updates",
    }
    shared_size: ClassVar[tuple[str, str]] = ("prompts_per_step", "steps_per_batch")

    # the teacher
    teacher: PathName | None = Field(
        None, description="Model to learn from, with the student's tokenizer; null: the student itself."
    )
    teachers: dict[str, PathName] = Field({}, description="A teacher for each of the tasks, by the task's name.")
    teacher_temperature: float = Field(
        1.0, ge=COLDEST, description="Sharpens the teacher: its distribution is q^(1 / teacher_temperature)."
    )
    teacher_sees: Literal["question", "attempt", "answer", "feedback"] = Field(
        "question",
        description="The teacher's prompt: as the student's, or also a right attempt of the student, the reference "
        "answer, or the student's attempt with its verdict.",
    )
    teacher_prompt: str | None = Field(
        None, description="Text with {question} and what the teacher sees: {attempt}, {answer}, {verdict}."
    )
    teacher_moves: Literal["fixed", "following", "live"] = Field(
        "fixed", description="The student as its own teacher: its first weights, weights that follow, or its weights."
    )
    sync_teacher_every: int = Field(1, gt=0, description="Batches between moves of a teacher that is following.")
    sync_teacher_mix: float = Field(
        0.05, gt=0, le=1, description="How far it moves towards the student: 1 all the way, less is a running mean."
    )

    # the objective
    objective: Literal["reverse_kl", "forward_kl", "jsd", "sampled_token", "sequence"] = Field(
        "reverse_kl", description="What a token's loss is, see distillation/objectives.py."
    )
    jsd_beta: float | None = Field(
        None, gt=0, lt=1, description="jsd: the teacher's weight in the mixture; near 0 forward KL, near 1 reverse KL."
    )
    teacher_top_k: int | None = Field(
        None, gt=0, description="Compare the teacher's likeliest tokens and one bucket for the rest; null: all tokens."
    )
    scale_by_temperature: bool = Field(
        True, description="Multiply the loss by temperature^2, so that its gradient keeps its size (Hinton 2015)."
    )

    # texts
    on_policy_share: float = Field(
        1.0, ge=0, le=1, description="Share of the prompts that the student answers (GKD's lambda); the rest is texts."
    )
    texts: TextsConfig = Field(TextsConfig(), description="Where off-policy texts come from.")
    max_steps: int = Field(60, gt=0, description="Batches.")
    prompts_per_step: int = Field(16, gt=0, le=10**5, description="Prompts in a batch, over all processes.")
    group_size: int = Field(4, gt=0, le=10**5, description="Completions of each prompt (g).")

    # updates
    steps_per_batch: int = Field(1, gt=0, description="Optimizer steps on a batch, each on its share of the prompts.")

    @property
    def is_self(self) -> bool:
        """Whether the student is its own teacher."""
        return self.teacher is None and not self.teachers

    @property
    def teacher_names(self) -> list[str]:
        """The models to learn from, each once."""
        return list(dict.fromkeys(self.teachers.values())) or [self.teacher or self.model_name]

    @property
    def compares(self) -> bool:
        """Whether the teacher scores tokens. The likelihood of texts needs the texts alone."""
        return self.objective != "sequence"

    @property
    def asks_teacher(self) -> bool:
        """Whether there is a teacher in any form; without one, texts of a file are learned as they are."""
        return self.compares or self.texts.path == "teacher"

    @property
    def taught_by(self) -> str:
        """Whom the student learns from, in words."""
        if not self.asks_teacher:
            return self.texts.path
        return "itself" if self.is_self else " + ".join(self.teacher_names)

    @model_validator(mode="after")
    def _is_a_method(self) -> "DistillationConfig":
        objective, share = self.objective, self.on_policy_share
        if objective == "sampled_token" and share < 1:
            raise ValueError(
                f"on_policy_share {share:g}: sampled_token is a policy gradient: it takes the student's own samples, 1"
            )
        if objective == "sequence" and share > 0:
            raise ValueError(
                f"on_policy_share {share:g}: sequence is the likelihood of the teacher's texts: it takes none of the "
                "student's, 0"
            )
        if self.jsd_beta is not None and objective != "jsd":
            raise ValueError("jsd_beta: only objective jsd has it")
        if self.teacher_top_k is not None and objective in ("sampled_token", "sequence"):
            raise ValueError(f"teacher_top_k: {objective} looks at one token")
        if self.teacher_sees != "question" and share < 1:
            raise ValueError(f"on_policy_share {share:g}: what the teacher sees is about the student's own samples, 1")
        if self.teacher_prompt is not None and self.teacher_sees == "question":
            raise ValueError("teacher_prompt: teacher_sees says what stands in it: attempt, answer or feedback")
        if self.prompts_per_step % self.steps_per_batch:
            raise ValueError(
                f"prompts_per_step {self.prompts_per_step} cannot be cut into steps_per_batch {self.steps_per_batch}"
            )
        return self

    @model_validator(mode="after")
    def _has_a_teacher(self) -> "DistillationConfig":
        if self.teachers and self.teacher is not None:
            raise ValueError("teacher and teachers: wanted one of them")
        if not self.is_self and not self.asks_teacher:
            raise ValueError(
                "teacher: sequence learns the texts of a file as they are, and asks no teacher: leave it out"
            )
        if self.teachers and self.teachers.keys() != self.tasks.keys():
            raise ValueError(
                f"teachers: has {sorted(self.teachers)}, and tasks has {sorted(self.tasks)}: each task has one teacher"
            )
        if self.teachers and self.on_policy_share < 1 and self.texts.path != "teacher":
            raise ValueError("teachers: the texts of a file are of no task; wanted on_policy_share 1, or one teacher")
        if self.teacher_moves != "fixed" and not self.is_self:
            raise ValueError(f"teacher_moves {self.teacher_moves}: only the student's own weights move; teacher: null")
        if self.teacher_moves == "following" and self.lora_rank:
            raise ValueError("teacher_moves following: with lora_rank it is fixed, the weights under the adapters")
        is_same = self.is_self and self.teacher_sees == "question" and self.teacher_temperature == 1
        if is_same and self.compares:
            raise ValueError(
                "teacher: the student itself, at the same temperature and with the same prompt, teaches nothing; set "
                "teacher, teacher_temperature or teacher_sees"
            )
        return self
