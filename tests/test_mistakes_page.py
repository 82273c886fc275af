"""docs/mistakes.md and docs/kl.md name tests: each is there."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / "docs" / "mistakes.md").read_text())))


@pytest.mark.parametrize(("file", "name"), NAMED, ids=[name for _, name in NAMED])
def test_the_named_test_is_there(file: str, name: str) -> None:
    tree = ast.parse((ROOT / file).read_text())
    assert name in {statement.name for statement in tree.body if isinstance(statement, ast.FunctionDef)}


def test_every_row_names_one() -> None:
    rows = [line for line in (ROOT / "docs" / "mistakes.md").read_text().splitlines() if line.startswith("| ")]
    mistakes = [row for row in rows if not row.startswith("| the mistake |")]
    assert len(mistakes) > 30
    for row in mistakes:
        assert re.search(r"`tests/[\w/]+\.py::\w+` \|$", row), row


def test_the_page_on_kl_names_tests_that_are_there() -> None:
    page = (ROOT / "docs" / "kl.md").read_text()
    for path in re.findall(r"\]\(\.\./([\w/]+\.py)\)", page):
        assert (ROOT / path).is_file()
    for name in re.findall(r"`(test_\w+)`", page):
        assert any(f"def {name}(" in file.read_text() for file in (ROOT / "tests").rglob("test_kl*.py")), name
