"""The parameters of the task `prompts`, looked at before anything else is loaded."""

from collections.abc import Mapping
from typing import Any

from rlhf.data.columns import short
from rlhf.data.rows import refuse_missing
from rlhf.errors import UserError, nearest
from rlhf.tasks.problem import HELD_OUT_SHARE

MATCHES = ("number", "text", "math", "none")  # each is a `Match` of rlhf.tasks.matching
PARAMETERS: dict[str, str | float | None] = {
    "path": None,
    "split": "train",
    "eval_path": None,
    "eval_split": None,
    "eval_share": HELD_OUT_SHARE,
    "prompt": None,
    "answer": None,
    "match": None,
}
ELSEWHERE = {  # what others call a parameter, or write somewhere else
    "subset": "a subset stands behind the path, owner/name:subset",
    "name": "a subset stands behind the path, owner/name:subset",
    "held_out_path": "did you mean 'eval_path'?",
    "question": "did you mean 'prompt'?",
}


def checked(parameters: Mapping[str, Any], name: str) -> dict[str, Any]:
    """All parameters, those that are given over the defaults.

    Raises:
        UserError: one is unknown or of another kind, or the path is missing or not there.
    """
    for key, value in parameters.items():
        if key not in PARAMETERS:
            raise UserError(f"task_config: {name} has no '{key}': {ELSEWHERE.get(key) or nearest(key, PARAMETERS)}")
        if key == "eval_share":
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
                raise UserError(f"task_config: eval_share: wanted a number between 0 and 1, found {short(value)}")
        elif not isinstance(value, str) and not (value is None and PARAMETERS[key] is None):
            raise UserError(f"task_config: {key}: wanted text, found {short(value)}")
    if not parameters.get("path"):
        raise UserError(
            f"task_config: {name} needs a path",
            hint="For example --task_config '{path: openai/gsm8k:main, match: number}', or a file or folder.",
        )
    if (match := parameters.get("match")) not in (None, *MATCHES):
        raise UserError(f"task_config: match: there is no {match!r}: {nearest(str(match), MATCHES)}")
    given: dict[str, Any] = {**PARAMETERS, **parameters}
    for key in ("path", "eval_path"):
        if given[key]:
            refuse_missing(given[key], key=f"task_config: {key}")
    return given
