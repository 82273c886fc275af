"""Ensembles of reward models: how members become one reward, and what is refused before any is loaded."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Qwen3Config, Qwen3ForSequenceClassification, Qwen3ForTokenClassification

from policy_gradients.config import PolicyGradientConfig
from rlhf.data.answers import encode_answer
from rlhf.embedded.make import character_tokenizer
from rlhf.errors import UserError
from rlhf.models.reward_model import RewardModel, combine

# Three members, two answers: they agree on the second.
SCORES = np.array([[1.0, 2.0], [3.0, 2.0], [5.0, 2.0]])


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("mean", [3.0, 2.0]),
        ("min", [1.0, 2.0]),
        ("mean_minus_variance", [3.0 - 0.5 * 8 / 3, 2.0]),  # over k: (4 + 0 + 4) / 3
        ("mean_minus_std", [3.0 - 2.0, 2.0]),  # over k - 1: sqrt((4 + 0 + 4) / 2)
    ],
)
def test_members_become_one_reward_by_hand(how, expected):
    assert combine(SCORES, how) == pytest.approx(expected)
    assert combine(SCORES[::-1], how) == pytest.approx(expected)


def test_lambda_weighs_the_variance():
    assert combine(SCORES, "mean_minus_variance", variance_weight=0.3)[0] == pytest.approx(3 - 0.3 * 8 / 3)
    assert combine(SCORES, "mean_minus_variance", variance_weight=0.0)[0] == 3.0


def test_what_distrusts_changes_the_choice():
    """The mean takes the answer that one member loves; the others the one that all like."""
    scores = np.array([[9.0, 2.9], [0.0, 3.0], [0.0, 3.1]])
    chosen = {how: int(combine(scores, how).argmax()) for how in ("min", "mean_minus_variance", "mean_minus_std")}
    assert set(chosen.values()) == {1}
    assert combine(scores + np.array([0.1, 0.0]), "mean").argmax() == 0


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"combine": "min"}, "an ensemble has several"),
        ({"names": ["a", "b"], "variance_weight": 0.1}, "variance_weight belongs to mean_minus_variance"),
        ({"names": ["a", "b"], "combine": "mean_minus_variance", "variance_weight": -1.0}, "wanted a number >= 0"),
        ({"names": ["a", "b"], "combine": "mean_minus_variance", "variance_weight": float("nan")}, "wanted a number"),
        ({"names": []}, "no model is named"),
    ],
)
def test_mistakes_are_told_before_a_model_is_loaded(settings, said):
    with pytest.raises(UserError, match=said):
        RewardModel(**{"names": ["nowhere"]} | settings)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"reward_model_combine": "lower"}, "mean_minus_std"),  # its former name: the new ones are told
        ({"reward_model": "a", "reward_model_combine": "min"}, "several reward models"),
        ({"reward_model": ["a", "b"], "reward_model_variance_weight": 0.2}, "only reward_model_combine"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        PolicyGradientConfig(**settings)
    fitting = {"reward_model": ["a", "b"], "reward_model_combine": "mean_minus_variance"}
    assert PolicyGradientConfig(**fitting, reward_model_variance_weight=0.2).reward_model_variance_weight == 0.2


class Member:
    """Scores its answers by a number each, and has a scale of its own."""

    def __init__(self, scores: list[float], mean: float, std: float):
        self.scores, self.mean, self.std = np.array(scores), mean, std

    def score(self, conversations) -> np.ndarray:
        assert [len(answers) for _, answers in conversations] == [2, 1]
        return self.scores

    def scaled(self, scores: np.ndarray) -> np.ndarray:
        return (scores - self.mean) / self.std


def ensemble(*members: Member, how="mean", variance_weight: float = 0.5) -> list[list[float]]:
    model = RewardModel.__new__(RewardModel)
    model.members, model.combine, model.variance_weight = list(members), how, variance_weight
    prompts = [[{"role": "user", "content": text}] for text in "pq"]
    return model.score([(prompts[0], ["a", "b"]), (prompts[1], ["c"])])


def test_an_ensemble_combines_what_its_members_say_on_one_scale():
    """Scaled: (0, 1, 2) and (2, 1, -2). Each prompt gets the rewards of its own answers."""
    members = Member([10.0, 12.0, 14.0], 10.0, 2.0), Member([7.0, 6.0, 3.0], 5.0, 1.0)
    assert ensemble(*members) == [[1.0, 1.0], [0.0]]
    assert ensemble(*members, how="min") == [[0.0, 1.0], [-2.0]]
    assert ensemble(*members, how="mean_minus_variance", variance_weight=0.25) == [[0.75, 1.0], [-1.0]]
    assert ensemble(*members, how="mean_minus_std")[0] == pytest.approx([1 - 2**0.5, 1.0])


def test_one_model_keeps_its_own_scale():
    assert ensemble(Member([10.0, 12.0, 14.0], 10.0, 2.0)) == [[10.0, 12.0], [14.0]]


def foreign(folder: Path, kind, **more) -> str:
    """A classifier as somebody else saves it: transformers' class, nothing of ours in its config."""
    tokenizer = character_tokenizer()
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Qwen3Config(vocab_size=len(tokenizer), num_key_value_heads=1, head_dim=8, **sizes, **more)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        kind(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_a_reward_model_of_others_gives_its_own_scores(tmp_path: Path) -> None:
    """One label for a sequence is a reward; it is read where transformers reads it, at the end token."""
    name = foreign(tmp_path / "rm", Qwen3ForSequenceClassification, num_labels=1)
    messages, answers = [{"role": "user", "content": "2 + 2?"}], ["4", "five"]
    (scores,) = RewardModel([name], device="cpu").score([(messages, answers)])
    theirs = Qwen3ForSequenceClassification.from_pretrained(name)
    for answer, score in zip(answers, scores, strict=True):
        encoded = encode_answer(character_tokenizer(), messages, answer)
        ids = torch.tensor([[*encoded.prompt, *encoded.completion]])
        assert score == pytest.approx(theirs(input_ids=ids).logits[0, 0].item(), abs=1e-5)


@pytest.mark.parametrize(
    ("kind", "labels", "said"),
    [
        (Qwen3ForSequenceClassification, 2, "tells 2 classes apart, and a reward is one number"),
        (Qwen3ForTokenClassification, 3, "does not say which end a step"),
    ],
)
def test_classifiers_that_give_no_reward_are_refused(tmp_path: Path, kind, labels: int, said: str) -> None:
    with pytest.raises(UserError, match=said):
        RewardModel([foreign(tmp_path / "other", kind, num_labels=labels)], device="cpu")
