"""Completions to rewards. The parts are kept apart, so that a policy that games one of them can be seen doing it.

They are the verdicts of the task, the score of a trained reward model (`reward_model: runs/NAME`), and your own.

A part of your own is a function in a file, given in the config as `reward_functions: {path/to/file.py:brevity: 0.1}`:

    def brevity(question: str, completion: str, answer: str) -> float:
        return -len(completion) / 100
"""

from collections.abc import Callable, Mapping, Sequence

from policy_gradients.config import PolicyGradientConfig, RewardWeights
from policy_gradients.reward_functions import load_functions, names_of
from rlhf.errors import UserError
from rlhf.evaluation import messages_for
from rlhf.tasks.problem import Problem, Task, Verdict
from rlhf.text.answers import Answer, text_of

UNVERIFIED = "unverified"  # 1 where the verifier failed or took too long, so that the completion counts as wrong
Answered = tuple[Problem, Sequence[Answer | str]]  # a problem with completions
RewardModelScore = Callable[[Sequence[Answered]], list[list[float]]]  # one number for each completion


class Judge:
    """Verdicts of the task, a reward model's scores, the user's own functions, and their weighted sum."""

    def __init__(
        self,
        task: Task,
        weights: RewardWeights,
        functions: Mapping[str, float],
        reward_model: RewardModelScore | None = None,
    ):
        self.task, self.reward_model = task, reward_model
        if weights.exact is None:
            weights = weights.model_copy(update={"exact": 1.0 if reward_model is None else 0.0})
        self.weights = weights
        names = [*RewardWeights.model_fields, UNVERIFIED, *names_of(functions)]
        for name in names:
            if names.count(name) > 1:
                raise UserError(f"reward_functions: '{name}' is the name of another part of the reward already")
        self.functions = load_functions(functions)

    def judge(self, answered: Sequence[Answered]) -> list[list[dict[str, float]]]:
        """The parts of every completion; a reward model reads all of them at once."""
        parts = [[self.parts(problem, text_of(answer)) for answer in answers] for problem, answers in answered]
        if self.reward_model is not None:
            for own, scores in zip(parts, self.reward_model(answered), strict=True):
                for one, score in zip(own, scores, strict=True):
                    one["model"] = score
        return parts

    def parts(self, problem: Problem, completion: str) -> dict[str, float]:
        """What is known of a completion by itself, by name, unweighted: the verdict, and each function's number."""
        verdict: Verdict = self.task.verify(problem, completion)
        own = {name: part(problem.question, completion, problem.answer) for name, part in self.functions.items()}
        judged = {"exact": verdict.exact, "format": verdict.format, "partial": verdict.partial}
        return {**judged, UNVERIFIED: float(bool(verdict.failed)), **own}

    def weigh(self, parts: Mapping[str, float]) -> float:
        weights = self.weights.model_dump() | {name: part.weight for name, part in self.functions.items()}
        return sum(weights[name] * value for name, value in parts.items() if name != UNVERIFIED)


def load_reward_model(config: PolicyGradientConfig) -> RewardModelScore | None:
    """What `reward_model` names, reading completions behind the same system prompt as the policy writes them behind.

    Raises:
        UserError: it names something that is no reward model.
    """
    if not config.judges:
        return None
    from reward_models.scoring import RewardModel

    model = RewardModel(
        config.judges,
        combine=config.reward_model_combine,
        variance_weight=config.reward_model_variance_weight,
        steps=config.reward_model_steps,
        token_budget=config.token_budget,
        device=config.device,
    )
    return lambda answered: model.score([(messages_for(it, config.system_prompt), answers) for it, answers in answered])


def overlong_penalty(length: int, *, max_new_tokens: int, overlong_buffer: float) -> float:
    """0 up to (1 - overlong_buffer) * max_new_tokens, then linear to 1 at max_new_tokens. DAPO, eq. 13.

    A buffer of 0 charges 1 at max_new_tokens and nothing before.
    """
    if length >= max_new_tokens:
        return 1.0
    free = (1 - overlong_buffer) * max_new_tokens
    return max(0.0, (length - free) / max(1.0, max_new_tokens - free))
