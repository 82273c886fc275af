"""A policy's attempts at problems, verified or scored."""

from collections.abc import Sequence

import numpy as np

from rlhf.evaluate.measures import Attempts
from rlhf.generate.speaker import Speaker
from rlhf.models.reward_model import RewardModel
from rlhf.random_keys import of_evaluation
from rlhf.tasks.problem import Problem, Task, messages_for


def attempt(
    speaker: Speaker, task: Task, problems: Sequence[Problem], *, samples: int, reward_model: RewardModel | None = None
) -> Attempts:
    """The likeliest answer to each problem and `samples` sampled ones.

    The random numbers are those of every evaluation: all policies meet the same draws, and the first of the samples is
    the completion that a run's own evaluation verifies.

    Args:
        reward_model: scores the answers to a task that does not verify.
    """
    conversations = [messages_for(problem, speaker.settings.system_prompt) for problem in problems]
    keys = [of_evaluation(i) for i in range(len(problems))]
    greedy = speaker.answers(conversations, keys, greedy=True)
    sampled = speaker.answers(conversations, keys, completions=samples)
    answered = [[*first, *others] for first, others in zip(greedy, sampled, strict=True)]
    if not task.verifies:
        assert reward_model is not None, "a task without reference answers is evaluated by a reward model"
        paid = np.array(reward_model.score(list(zip(conversations, answered, strict=True))))
        return Attempts(paid[:, 0], paid[:, 1:], votes=None)
    verdicts = [
        [task.verify(problem, answer.text) for answer in own] for problem, own in zip(problems, answered, strict=True)
    ]
    exact = np.array([[verdict.exact if verdict else 0.0 for verdict in own] for own in verdicts])
    votes = [[verdict.answer if verdict else None for verdict in own[1:]] for own in verdicts]
    failed = sum(bool(verdict and verdict.failed) for own in verdicts for verdict in own)
    return Attempts(exact[:, 0], exact[:, 1:], votes, failed)
