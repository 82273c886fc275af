"""Every block of docs/data.md is read by the families that its table names."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from direct_alignment.data import to_example
from instruction_tuning.config import InstructionTuningConfig
from instruction_tuning.data import to_groups
from policy_gradients.reward_loading import load_function
from reward_models.config import OutcomeConfig, PreferenceConfig, ProcessConfig
from reward_models.outcome_data import outcome_examples
from reward_models.preference_data import preference_examples
from reward_models.process_data import process_examples
from rlhf.data.conversations import parse_row
from rlhf.data.preferences import Ranking, parse_labelled, parse_preference
from rlhf.data.rows import load_rows, usable
from rlhf.errors import UserError
from rlhf.generate.conversations import parse_prompt
from rlhf.models.policy import load_tokenizer
from rlhf.tasks.matching import MATCHES
from rlhf.tasks.prompt_rows import Names, read_problems

PAGE = (Path(__file__).parents[1] / "docs" / "data.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"^### (\S+)\n.*?^```jsonl\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL))
TABLE = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line.startswith("| [")]
TOKENIZER = load_tokenizer("embedded")

SAME_COLUMNS = ("solutions", "steps")  # what is meant is for the command to say

type Rows = list[tuple[str, Any]]


def aligned(parse: Callable[[dict], tuple[Ranking, bool | None]]) -> Callable[[Rows], list]:
    limits: Any = {"max_length": 400, "truncation": "keep_end", "system_prompt": None}
    return lambda rows: usable(rows, lambda row: to_example(TOKENIZER, *parse(row), **limits), say=print)


def demonstrations(rows: Rows) -> list:
    config = InstructionTuningConfig()
    return usable(rows, lambda row: to_groups(TOKENIZER, parse_row(row), config), say=print)


READERS: list[Callable[[Rows], list]] = [
    demonstrations,
    aligned(lambda row: (parse_preference(row), None)),
    aligned(parse_labelled),
    lambda rows: preference_examples(rows, TOKENIZER, PreferenceConfig(margin_scale=0), print),
    lambda rows: outcome_examples(rows, TOKENIZER, OutcomeConfig(), print),
    lambda rows: process_examples(rows, TOKENIZER, ProcessConfig(), print),
    lambda rows: usable(rows, parse_prompt, say=print),
]


def test_the_table_has_a_row_for_each_block() -> None:
    named = [re.match(r"\[(\S+)\]\(#(\S+)\)", format_) for format_, *_ in TABLE]
    assert [match[1] for match in named if match] == [match[2] for match in named if match] == list(BLOCKS)
    assert all(any(cells) for _, *cells in TABLE)


@pytest.mark.parametrize("line", TABLE, ids=lambda line: line[0].partition("]")[0][1:])
def test_a_block_is_read_by_the_families_of_its_row(tmp_path: Path, line: list[str]) -> None:
    """As a file. Families without a cross refuse it, or it could be learned as what it is not."""
    name, cells = line[0].partition("]")[0][1:], line[1:]
    file = tmp_path / "mine.jsonl"
    file.write_text(BLOCKS[name], encoding="utf-8")
    rows = load_rows(str(file))
    for cell, read in zip(cells[:-1], READERS, strict=True):
        if cell == "x":
            assert read(rows)
        elif name not in SAME_COLUMNS:
            with pytest.raises(UserError, match="cannot be used"):
                read(rows)
    if cells[-1]:
        problems = read_problems(rows, Names(), MATCHES[cells[-1]])
        assert len(problems) == len(rows)
        assert all(problem.answer for problem in problems) == (cells[-1] != "none")


def test_the_page_s_reward_functions_are_functions(tmp_path: Path) -> None:
    (block,) = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
    (tmp_path / "mine.py").write_text(block, encoding="utf-8")
    assert load_function(f"{tmp_path}/mine.py:brevity")(prompt="p", completion="x" * 50) == -0.5
    found = load_function(f"{tmp_path}/mine.py:on_topic")(prompts=["p"], completions=["so rain"], topic=["rain"])
    assert found == [1.0]
    assert callable(load_function(f"{tmp_path}/mine.py:judged"))


def test_blocks_are_json() -> None:
    assert all(isinstance(json.loads(row), dict) for block in BLOCKS.values() for row in block.splitlines())
