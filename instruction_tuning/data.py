"""Conversations to train on: from a file or the Hub, or demonstrations made on the spot."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Protocol

from transformers import PreTrainedTokenizerBase

from instruction_tuning.config import DataConfig
from instruction_tuning.demonstrations import demonstrate
from rlhf.chat import Message, encode_conversation
from rlhf.data import Row, in_epochs, load_rows, usable
from rlhf.groups import Group
from rlhf.tasks import Task

Conversation = list[Message]


class Source(Protocol):
    """Training conversations by number, the same for the same seed, and a held-out set."""

    fingerprint: str
    tasks: Sequence[Task]

    def batch(self, step: int, count: int) -> list[Conversation]: ...

    def held_out(self) -> list[Conversation]: ...


class Demonstrations:
    """An endless stream: problem number i is of task i mod (number of tasks)."""

    def __init__(self, config: DataConfig, *, seed: int, max_steps: int):
        self.tasks = [Task(name, parameters) for name, parameters in config.tasks.items()]
        self.config, self.seed, self.max_steps = config, seed, max_steps
        self.fingerprint = _fingerprint(config.model_dump())

    def batch(self, step: int, count: int) -> list[Conversation]:
        late = step >= self.config.wrong_from * self.max_steps
        per_task = count // len(self.tasks)
        conversations = []
        for task in self.tasks:
            problems = task.train_problems(seed=self.seed, first=step * per_task, count=per_task)
            share = self.config.wrong.get(task.name, 0.0) if late else 0.0
            for i, problem in enumerate(problems):
                rng = Random(f"{self.seed} {task.name} {step} {i}")
                conversations.append(demonstrate(problem, task.name, wrong=rng.random() < share, rng=rng))
        return conversations

    def held_out(self) -> list[Conversation]:
        rng = Random(0)
        per_task = self.config.held_out // len(self.tasks)
        return [
            demonstrate(problem, task.name, wrong=False, rng=rng)
            for task in self.tasks
            for problem in task.held_out_problems(per_task)
        ]


class Rows:
    """A fixed set, shuffled anew every epoch, the first `held_out` of a first shuffle kept apart."""

    tasks: Sequence[Task] = ()

    def __init__(self, config: DataConfig, *, seed: int, say: Callable[[str], None]):
        conversations = usable(load_rows(config.path, split=config.split), parse_row, say=say)
        Random(0).shuffle(conversations)  # not by seed: the held-out set is the same for every run
        held_out = min(config.held_out, len(conversations) // 5)
        self._held_out, self.conversations = conversations[:held_out], conversations[held_out:]
        if config.size:
            self.conversations = self.conversations[: config.size]
        self.seed = seed
        self.fingerprint = _fingerprint(self.conversations)

    def batch(self, step: int, count: int) -> list[Conversation]:
        return in_epochs(self.conversations, seed=self.seed, first=step * count, count=count)

    def held_out(self) -> list[Conversation]:
        return self._held_out


def parse_row(row: Row) -> Conversation:
    """`messages`, or `prompt` and `completion` as text or as messages, or `instruction`/`input`/`output`.

    Raises:
        ValueError: whatever else the row is; it says what was found and what was wanted.
    """
    if not isinstance(row, Mapping):
        raise ValueError(f"wanted columns, found {type(row).__name__}")
    if row.get("messages"):
        conversation = _messages(row["messages"], "messages")
    elif "prompt" in row and "completion" in row:
        conversation = [*_as_messages(row["prompt"], "user"), *_as_messages(row["completion"], "assistant")]
    elif "instruction" in row and "output" in row:
        parts = [_text(row[key], key) for key in ("instruction", "input") if row.get(key) not in (None, "")]
        answer = _text(row["output"], "output")
        conversation = [*_as_messages("\n\n".join(parts), "user"), *_as_messages(answer, "assistant")]
    else:
        raise ValueError(f"columns {sorted(row)}: wanted messages, or prompt and completion, or instruction and output")
    if not all(isinstance(m["content"], str) and m["content"].strip() for m in conversation):
        raise ValueError("a message is empty or not text")
    if not conversation or conversation[-1]["role"] != "assistant":
        raise ValueError("the conversation does not end with the assistant")
    return conversation


def _as_messages(value: object, role: str) -> Conversation:
    return [{"role": role, "content": value}] if isinstance(value, str) else _messages(value, role)


def _messages(value: object, where: str) -> Conversation:
    if not isinstance(value, list):
        raise ValueError(f"{where}: wanted messages, found {type(value).__name__}")
    for message in value:
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str) or "content" not in message:
            raise ValueError(f"{where}: wanted messages with role and content, found {str(message)[:60]}")
    return [{"role": message["role"], "content": message["content"]} for message in value]


def _text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{where}: wanted text, found {type(value).__name__}")
    return value


def to_groups(
    tokenizer: PreTrainedTokenizerBase, conversations: Sequence[Conversation], *, max_length: int, last_turn_only: bool
) -> list[Group]:
    """Tokenized, cut at `max_length` tokens; a conversation whose answer lies wholly behind that is left out."""
    groups = []
    for conversation in conversations:
        encoded = encode_conversation(tokenizer, conversation, last_turn_only=last_turn_only)
        room = max_length - len(encoded.prompt)
        if room > 0 and any(encoded.counts[:room]):
            groups.append(Group(encoded.prompt, [encoded.completion[:room]], [encoded.counts[:room]]))
    return groups


def _fingerprint(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]
