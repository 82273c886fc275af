"""Conversations to train on: from a file or the Hub, or demonstrations made on the spot; tokenized."""

import hashlib
import json
from collections.abc import Callable, Sequence
from random import Random

from transformers import PreTrainedTokenizerBase

from instruction_tuning.config import InstructionTuningConfig
from instruction_tuning.demonstrations import demonstrate
from rlhf.data.conversations import Dialogue, dialogue_groups, parse_row
from rlhf.data.rows import in_epochs, load_rows, refuse_larger_step, refuse_many_unusable, sift, sift_rows
from rlhf.data.splits import split_by_question
from rlhf.errors import UserError
from rlhf.groups import Group
from rlhf.tasks.procedural import ProceduralTask
from rlhf.text.chat import Message, end_tokens


class Demonstrations:
    """An endless stream: problem number i is of task i mod (number of tasks)."""

    def __init__(self, config: InstructionTuningConfig, tokenizer: PreTrainedTokenizerBase):
        self.config, self.data, self.tokenizer = config, config.data, tokenizer
        self.tasks = [ProceduralTask(name, parameters) for name, parameters in self.data.tasks.items()]
        self.fingerprint = _fingerprint(self.data.model_dump())
        for key, value in (("batch_size", config.batch_size), ("data.held_out", self.data.held_out)):
            if value % len(self.tasks):
                raise UserError(f"{key} {value} is not a multiple of the {len(self.tasks)} tasks in equal parts")
        self.held_out = self._encode(self.held_out_conversations())

    def conversations(self, step: int, count: int) -> list[list[Message]]:
        late = step >= self.data.wrong_from * self.config.max_steps
        per_task, seed = count // len(self.tasks), self.config.seed
        conversations = []
        for task in self.tasks:
            problems = task.train_problems(seed=seed, first=step * per_task, count=per_task)
            share = self.data.wrong.get(task.name, 0.0) if late else 0.0
            for i, problem in enumerate(problems):
                rng = Random(f"{seed} {task.name} {step} {i}")
                conversations.append(demonstrate(problem, task.name, wrong=rng.random() < share, rng=rng))
        return conversations

    def held_out_conversations(self) -> list[list[Message]]:
        rng = Random(0)
        per_task = self.data.held_out // len(self.tasks)
        return [
            demonstrate(problem, task.name, wrong=False, rng=rng)
            for task in self.tasks
            for problem in (task.held_out_problems(per_task) if per_task else [])
        ]

    def batch(self, step: int, count: int) -> list[Group]:
        return self._encode(self.conversations(step, count))

    def _encode(self, conversations: Sequence[list[Message]]) -> list[Group]:
        """Made here, so that one which cannot be used is an error, and none is left out."""
        groups = []
        for messages in conversations:
            try:
                groups += to_groups(self.tokenizer, Dialogue(messages, []), self.config)
            except ValueError as error:
                raise UserError(f"data.tasks: a demonstration cannot be used: {error}") from error
        return groups


class Rows:
    """A fixed set, shuffled anew every epoch; whole questions are kept apart, the same in every run."""

    tasks: Sequence[ProceduralTask] = ()

    def __init__(
        self, config: InstructionTuningConfig, tokenizer: PreTrainedTokenizerBase, *, say: Callable[[str], None]
    ):
        parsed = sift_rows(load_rows(config.data.path, split=config.data.split), parse_row)
        train, held_out = split(parsed.kept, config.data.held_out, say=say)
        Random(0).shuffle(train)
        train = train[: config.data.size or None]
        apart = {where: part is held_out for part in (train, held_out) for where, _ in part}
        chosen = [(where, (dialogue, apart[where])) for where, dialogue in parsed.kept if where in apart]
        encoded = sift(chosen, lambda item: (to_groups(tokenizer, item[0], config), item[1]), what="conversations")
        refuse_many_unusable([parsed, encoded], say=say)
        self.conversations = [groups for _, (groups, is_apart) in encoded.kept if not is_apart]
        self.held_out = [group for _, (groups, is_apart) in encoded.kept if is_apart for group in groups]
        self.seed = config.seed
        self.fingerprint = _fingerprint([[(d.messages, d.tools) for _, d in part] for part in (train, held_out)])
        refuse_larger_step(len(self.conversations), config.batch_size, what="conversations")
        say_what_is_cut(tokenizer, [group for _, (groups, _) in encoded.kept for group in groups], config, say)

    def batch(self, step: int, count: int) -> list[Group]:
        chosen = in_epochs(self.conversations, seed=self.seed, first=step * count, count=count)
        return [group for groups in chosen for group in groups]


# Training conversations by number, the same for the same seed, and a held-out set. A conversation is one group:
# of one completion, or of one for each answer where the chat template shows earlier answers in another way.
Source = Demonstrations | Rows


def open_data(
    config: InstructionTuningConfig, tokenizer: PreTrainedTokenizerBase, *, say: Callable[[str], None]
) -> Source:
    """The conversations of the config, tokenized."""
    if config.data.path == "demonstrations":
        return Demonstrations(config, tokenizer)
    return Rows(config, tokenizer, say=say)


type Placed = tuple[str, Dialogue]  # with where it stands


def split(
    dialogues: Sequence[Placed], held_out: int, *, say: Callable[[str], None]
) -> tuple[list[Placed], list[Placed]]:
    """(those to train on, those kept apart): whole questions; none apart where the questions are too few, said."""
    if not dialogues or not held_out:
        return list(dialogues), []
    try:
        return split_by_question(dialogues, lambda placed: placed[1].question, held_out=held_out)
    except UserError as error:
        say(f"{error.message}: nothing is held out, and there is no evaluation")
        return list(dialogues), []


def to_groups(tokenizer: PreTrainedTokenizerBase, dialogue: Dialogue, config: InstructionTuningConfig) -> list[Group]:
    """The conversation as tokens, see `dialogue_groups`, as long as the config lets it be."""
    return dialogue_groups(
        tokenizer,
        dialogue,
        max_length=config.max_length,
        truncation=config.truncation,
        last_turn_only=config.last_turn_only,
    )


def say_what_is_cut(
    tokenizer: PreTrainedTokenizerBase,
    groups: Sequence[Group],
    config: InstructionTuningConfig,
    say: Callable[[str], None],
) -> None:
    """A conversation ends with an end token, and one that was cut does not."""
    ends = set(end_tokens(tokenizer))
    if cut := sum(any(completion[-1] not in ends for completion in group.completions) for group in groups):
        number = "1 conversation is" if cut == 1 else f"{cut} conversations are"
        say(f"data: {number} cut at max_length {config.max_length}; what is cut has no end token")


def _fingerprint(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]
