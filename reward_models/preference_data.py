"""Data of preference models: rankings of a file, or a policy's own completions, each right one above each wrong one."""

from collections.abc import Iterable
from typing import Any

from transformers import PreTrainedTokenizerBase

from reward_models.config import PreferenceConfig
from reward_models.examples import Example, Say, Split, split_file
from reward_models.outcome_data import contrasting, outcome_data
from rlhf.data.preferences import Ranking, parse_preference
from rlhf.data.ranking_groups import Fitted, describe_cuts, to_group
from rlhf.data.rows import Row, load_rows, usable
from rlhf.errors import UserError


def preference_data(config: PreferenceConfig, tokenizer: PreTrainedTokenizerBase, say: Say) -> Split:
    data = config.data
    if data.path == "samples":
        split = outcome_data(config, tokenizer, say)
        return Split(split.name, *map(contrasting, (split.train, split.validation, split.held_out)))
    rows = load_rows(data.path, split=data.split)[: data.size or None]
    return split_file(data, preference_examples(rows, tokenizer, config, say))


def preference_examples(
    rows: Iterable[tuple[str, Any]], tokenizer: PreTrainedTokenizerBase, config: PreferenceConfig, say: Say
) -> list[Example]:
    """Rankings of a file, tokenized in the same pass, so that whatever is wrong with a row counts as one."""

    def read(row: Row) -> tuple[Example, Fitted]:
        ranking = parse_preference(row)
        if config.margin_scale:
            _margin_can_be_used(ranking)
        fitted = to_group(tokenizer, ranking, max_length=config.max_length, truncation=config.truncation)
        texts = ["\n\n".join(message["content"] for message in answer) for answer in ranking.completions]
        subset = str(row.get("subset") or "")
        right: list[bool | None] = [i < ranking.chosen for i in range(len(texts))] if ranking.chosen else []
        margin = ranking.margin or 0.0
        return Example(ranking.question, fitted.group, texts, right, margin=margin, subset=subset), fitted

    found = usable(rows, read, say=say)
    describe_cuts((fitted for _, fitted in found), max_length=config.max_length, say=say)
    return [example for example, _ in found]


def _margin_can_be_used(ranking: Ranking) -> None:
    if ranking.margin is None:
        raise UserError(
            "margin_scale: the data have no margins",
            hint="Give a column margin, or score_chosen and score_rejected.",
        )
    if len(ranking.completions) > 2:
        raise UserError("margin_scale: a margin belongs to a pair, and the data have longer rankings")
