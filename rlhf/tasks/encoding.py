"""Problems as a model reads them: prompts of token ids."""

from transformers import PreTrainedTokenizerBase

from rlhf.tasks.problem import Problem, messages_for
from rlhf.text.chat import encode_prompt


def encode_problem(tokenizer: PreTrainedTokenizerBase, problem: Problem, system_prompt: str | None) -> list[int]:
    """The prompt that asks for an answer: the problem's conversation in the chat template."""
    return encode_prompt(tokenizer, messages_for(problem, system_prompt))
