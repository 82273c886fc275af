"""What is said to one model and what it answers, over several turns."""

from collections.abc import Callable
from dataclasses import dataclass, field

from rlhf.data.answers import Answer
from rlhf.generate.speaker import Speaker
from rlhf.random_keys import of_prompt
from rlhf.tasks.problem import Message, with_system
from rlhf.text.chat import encode_prompt


@dataclass
class Conversation:
    """The turns so far of a model with its user, and the system prompt in front of them, unless they begin with one."""

    speaker: Speaker
    system_prompt: str | None
    seed: int
    turns: list[Message] = field(default_factory=list)

    @property
    def messages(self) -> list[Message]:
        return with_system(self.turns, self.system_prompt)

    def ask(self, text: str, say: Callable[[str], None]) -> Answer:
        """Say something to the model; `say` gets its answer piece by piece. The same words bring the same answer."""
        self.turns.append({"role": "user", "content": text})
        try:
            prompt = encode_prompt(self.speaker.tokenizer, self.messages)
            answer = self.speaker.stream(self.messages, of_prompt(self.seed, repr(prompt)), say)
        except BaseException:  # what was not answered was not said
            self.turns.pop()
            raise
        self.turns.append({"role": "assistant", "content": answer.text})
        return answer

    def rendered(self, text: str = "...") -> str:
        """What the model would read if the user said `text` next: the chat template with its control tokens."""
        messages = [*self.messages, {"role": "user", "content": text}]
        return str(self.speaker.tokenizer.decode(encode_prompt(self.speaker.tokenizer, messages)))
