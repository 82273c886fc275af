"""What a run comes to."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class RunResult:
    """A run that has ended: the trained model and its tokenizer, and what the run directory says of it."""

    path: Path  # the run directory; `path / "final"` is the model in Hugging Face format
    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    exit_code: int = 0  # of a command; other than 0 where a signal ended the run before its last step

    @property
    def finished(self) -> bool:
        """Whether all steps were taken. If not, the run is saved, and `run(..., resume=True)` continues it."""
        return self.exit_code == 0

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """One record a step: `step`, `wall_s`, and the metrics that provenance.json describes."""
        return self._records("metrics")

    @cached_property
    def eval(self) -> list[dict[str, Any]]:
        """Held-out evaluations: `step`, `data`, `metric`, `value`, `n`, and the 95 % interval `low`, `high`."""
        return self._records("eval")

    @cached_property
    def samples(self) -> list[dict[str, Any]]:
        """Some completions with their prompts, by step."""
        return self._records("samples")

    @cached_property
    def advice(self) -> list[dict[str, Any]]:
        """Why the run could not learn, where it could not."""
        return self._records("advice")

    def _records(self, stream: str) -> list[dict[str, Any]]:
        from rlhf.run.tracking import read_records

        return read_records(self.path / f"{stream}.jsonl")
