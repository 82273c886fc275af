"""What a judge is asked, word for word, as one message of the user."""

from collections.abc import Sequence

from rlhf.data.answers import Answer, text_of
from rlhf.text.chat import Message

LETTERS = ("A", "B")
WORDS = ("yes", "no")

PAIR = """Here are a question and two answers to it.

Question:
{question}

Answer A:
{first}

Answer B:
{second}

{ask} Reply with one letter, A or B."""

SINGLE = """Here are a question and an answer to it.

Question:
{question}

Answer:
{answer}

{ask} Reply with one word, yes or no."""


def pair_question(prompt: Sequence[Message], first: Answer | str, second: Answer | str, ask: str) -> str:
    """Which of two answers is better?"""
    return PAIR.format(question=transcript(prompt), first=text_of(first), second=text_of(second), ask=ask)


def criterion_question(prompt: Sequence[Message], answer: Answer | str, ask: str) -> str:
    """Does an answer meet a criterion?"""
    return SINGLE.format(question=transcript(prompt), answer=text_of(answer), ask=ask)


def transcript(prompt: Sequence[Message]) -> str:
    """A conversation as text: a single question of the user as it is, otherwise each message behind its role."""
    if [message["role"] for message in prompt] == ["user"]:
        return prompt[0]["content"]
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in prompt)
