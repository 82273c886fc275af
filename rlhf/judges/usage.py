"""What an endpoint has been asked so far, what that took, and how often it failed."""

from dataclasses import dataclass, field, fields
from threading import Lock


@dataclass
class Usage:
    """Counts; `add` may be called by several threads."""

    calls: int = 0  # that were answered, without those from the cache
    cached: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    retries: int = 0
    malformed: int = 0  # replies without a verdict
    refused: int = 0  # questions that the server did not take
    lock: Lock = field(default_factory=Lock, repr=False, compare=False)

    def add(self, **counts: int) -> None:
        with self.lock:
            for name, count in counts.items():
                setattr(self, name, getattr(self, name) + count)

    @property
    def counts(self) -> dict[str, int]:
        """The counts by name."""
        return {it.name: getattr(self, it.name) for it in fields(self) if it.name != "lock"}

    def lines(self) -> list[str]:
        """The counts in sentences, for the end of a command."""
        told = [
            f"judge: {self.calls} calls, {self.cached} answers from the cache, {self.retries} tried again; "
            f"{self.tokens_in:,} tokens in, {self.tokens_out:,} out"
        ]
        if self.malformed or self.refused:
            told.append(f"judge: {self.malformed} replies without a verdict, {self.refused} questions not taken")
        return told
