"""Options of the commands that have no config file, checked where they are read and in the words that configs use.

    parser.add_argument("--temperature", type=number(0), default=1.0)

answers `--temperature -1` with "command line: --temperature is -1; accepted: a number >= 0".
"""

import argparse
import math
from collections.abc import Callable
from typing import Any

from rlhf.config.command_line import Parser
from rlhf.config.schema import COLDEST, LARGEST_SEED
from rlhf.config.yaml_file import read_yaml
from rlhf.errors import UserError

__all__ = ["Parser", "add_candidates", "mapping", "number", "seed", "temperature", "whole"]

MANY = 10**6  # problems, completions of one, tokens of one: what no machine here works through


def whole(low: int, high: int = MANY) -> Callable[[str], int]:
    """An argparse type: a whole number from `low` to `high`."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = None
        if value is None or not low <= value <= high:
            raise argparse.ArgumentTypeError(f"is {text}; accepted: a whole number >= {low} and <= {high}")
        return value

    return read


def number(low: float, high: float = math.inf) -> Callable[[str], float]:
    """An argparse type: a finite number from `low` to `high`."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or not low <= value <= high:
            bound = f" and <= {high}" if math.isfinite(high) else ""
            raise argparse.ArgumentTypeError(f"is {text}; accepted: a number >= {low:g}{bound}")
        return value

    return read


def temperature(text: str) -> float:
    """An argparse type: 0 takes the likeliest token; below COLDEST, logits divided by it are no numbers any more."""
    value = number(0)(text)
    if 0 < value < COLDEST:
        raise argparse.ArgumentTypeError(f"is {text}; accepted: 0, or a number >= {COLDEST:g}")
    return value


def seed(text: str) -> int:
    """An argparse type: what numpy takes for a seed."""
    return whole(0, LARGEST_SEED)(text)


def mapping(text: str) -> dict[str, Any]:
    """An argparse type: settings by name, as YAML or JSON: '{max_terms: 4}'."""
    try:
        value = read_yaml(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(f"is {text[:60]}, {error.message}") from error
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"is {text[:60]}; accepted: a mapping such as {{name: 1}}")
    return value


def add_candidates(
    parser: argparse.ArgumentParser,
    *,
    problems: int,
    max_new_tokens: int,
    name: str = "candidates",
    count: int = 8,
    least: int = 1,
) -> None:
    """The options of a command that samples a policy's candidates; see `rlhf.candidates`.

    Args:
        problems, max_new_tokens, count: defaults; `count` is how many completions of each problem.
        name: of the option that says how many.
        least: the smallest number of them.
    """
    add = parser.add_argument
    add("--model_name", default="embedded", help="policy: embedded, a Hub id, a folder or run (default: embedded)")
    add("--task", default="step_arithmetic", help="of reasoning-gym, or prompts (default: step_arithmetic)")
    add("--task_config", type=mapping, default={}, metavar="{KEY: VALUE}", help="the task's own parameters")
    answers = ("think_tags", "answer_tag", "last_number", "text")
    add("--answer_in", choices=answers, default="think_tags", help="where the answer stands (default: think_tags)")
    add("--system_prompt", help="said to the policy before the question")
    add("--problems", type=whole(1), default=problems, help=f"how many problems (default: {problems})")
    add(f"--{name}", type=whole(least), default=count, help=f"completions of each (default: {count})")
    add(
        "--max_new_tokens",
        type=whole(1),
        default=max_new_tokens,
        help=f"tokens at which a completion is cut (default: {max_new_tokens})",
    )
    add("--temperature", type=temperature, default=1.0, help="of sampling (default: 1)")
    add("--seed", type=seed, default=0, help="of the problems and the sampling (default: 0)")
