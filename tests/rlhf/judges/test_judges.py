"""Judges: both orders and their mean, labels for pairs, the likelihoods behind a verdict, and the audit."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from rlhf.candidates import Candidates
from rlhf.data.answers import Answer
from rlhf.data.preferences import Ranking
from rlhf.errors import UserError
from rlhf.judges import __main__ as command
from rlhf.judges.audit import GoldPair, audit, gold_pairs, records_of
from rlhf.judges.config import JudgeConfig
from rlhf.judges.judge import Comparison, Judge, Pair, PairJudge, compare, open_judge
from rlhf.judges.labelling import label_pairs
from rlhf.judges.local import LikelihoodJudge, LocalModel
from rlhf.judges.rubric import CriterionReward, Rubric, RubricJudge
from rlhf.judges.templates import pair_question
from rlhf.tasks.problem import Problem, Verdict
from rlhf.text.chat import encode_conversation

ASKED = [{"role": "user", "content": "2+2?"}]


class Says:
    """A chooser that answers a question by a function of its text."""

    usage = None

    def __init__(self, answer: Callable[[str], float | None]):
        self.answer = answer

    def choose(self, questions: Sequence[str], choices: tuple[str, str]) -> list[float | None]:
        return [self.answer(question) for question in questions]


def first_answer(question: str) -> str:
    return question.split("Answer A:\n")[1].split("\n\nAnswer B:")[0]


def by_place(p: float, *, right: float = 0.0) -> Judge:
    """Gives the first place `p`, and the answer "4" so much more."""
    return PairJudge(Says(lambda q: p + (right if first_answer(q) == "4" else -right)), "Which is right?")


def pairs(count: int) -> list[GoldPair]:
    """Right is "4"; wrong is "five", which is longer, in two of three; first in every second pair."""
    made = []
    for i in range(count):
        wrong = "five" if i % 3 else "3"
        first, second = ("4", wrong) if i % 2 else (wrong, "4")
        made.append(GoldPair(Pair(ASKED, first, second), first == "4", f"question {i // 2}"))
    return made


def test_what_a_judge_is_asked() -> None:
    """Word for word; of a conversation, who said what."""
    asked = pair_question([{"role": "system", "content": "Add."}, *ASKED], "4", Answer("5"), "Which is right?")
    assert asked == (
        "Here are a question and two answers to it.\n\nQuestion:\nsystem: Add.\n\nuser: 2+2?\n\n"
        "Answer A:\n4\n\nAnswer B:\n5\n\nWhich is right? Reply with one letter, A or B."
    )
    assert "Question:\n2+2?\n\nAnswer A" in pair_question(ASKED, "4", "5", "Which?")


def test_both_orders_are_asked_and_averaged() -> None:
    """P(first) = 0.9 in both orders says nothing: (0.9 + 0.1) / 2. With 0.05 for "4": (0.95 + 0.15) / 2 = 0.55."""
    (blind,) = compare(by_place(0.9), [Pair(ASKED, "4", "5")])
    assert blind.mean == pytest.approx(0.5)
    (seeing,) = compare(by_place(0.9, right=0.05), [Pair(ASKED, "4", "5")])
    assert (seeing.shown_first, seeing.shown_second, seeing.mean) == pytest.approx((0.95, 0.15, 0.55))
    (silent,) = compare(
        PairJudge(Says(lambda q: None if first_answer(q) == "5" else 1.0), "?"), [Pair(ASKED, "4", "5")]
    )
    assert silent.mean is None


def test_the_audit_of_a_judge_that_looks_at_the_place() -> None:
    """It always chooses the first, but knows a little: one order is a coin toss, both together are right."""
    found = {it["metric"]: it for it in audit(by_place(0.9, right=0.05), pairs(60), data="sums")}
    value = {name: it["value"] for name, it in found.items()}
    assert value["accuracy_one_order"] == value["first_chosen"] == 0.5
    assert value["accuracy"] == value["changed_by_order"] == value["first_chosen_one_order"] == 1.0
    assert value["accuracy_gain"] == 0.5
    assert value["first_probability"] == pytest.approx(0.9)
    assert value["no_verdict"] == value["longer_chosen"] == value["longer_is_right"] == 0.0
    assert value["accuracy_right_is_shorter"] == 1.0
    assert "accuracy_right_is_longer" not in value
    assert (found["longer_chosen"]["n"], found["accuracy"]["n"]) == (40, 60)


def test_the_audit_of_a_judge_that_looks_at_the_length() -> None:
    longest = PairJudge(Says(lambda q: float(len(first_answer(q)) > 1)), "?")
    value = {it["metric"]: it["value"] for it in audit(longest, pairs(60), data="sums")}
    assert value["longer_chosen"] == 1.0
    assert value["accuracy_right_is_shorter"] == 0.0
    assert value["accuracy"] == pytest.approx(20 / 60 / 2), "a tie counts one half"


def test_pairs_without_a_verdict_are_left_out_and_counted() -> None:
    comparisons = [Comparison(1.0, 1.0), Comparison(None, 1.0), Comparison(0.0, None), Comparison(0.0, 0.0)]
    known = {it["metric"]: (it["value"], it["n"]) for it in records_of(comparisons, pairs(4), data="sums")}
    assert known["no_verdict"] == (0.5, 4)
    assert known["accuracy"] == (0.0, 2)
    nothing = records_of([Comparison(None, None)] * 4, pairs(4), data="sums")
    assert [it["metric"] for it in nothing] == ["no_verdict"]


def test_the_interval_is_over_questions() -> None:
    """Pairs of one question agree in all: 60 pairs of 30 questions know as much as 30."""
    comparisons = [Comparison(p, p) for it in range(30) for p in [float(it % 2)] * 2]
    gold = [GoldPair(Pair(ASKED, "4", "5"), True, f"question {i // 2}") for i in range(60)]
    (found,) = [it for it in records_of(comparisons, gold, data="sums") if it["metric"] == "accuracy"]
    alone = records_of(comparisons, [GoldPair(it.pair, True, f"{i}") for i, it in enumerate(gold)], data="sums")
    (narrow,) = [it for it in alone if it["metric"] == "accuracy"]
    assert (found["high"] - found["low"]) / (narrow["high"] - narrow["low"]) == pytest.approx(2**0.5, abs=0.06)


def test_the_right_answer_is_shown_in_both_places() -> None:
    rankings = [
        Ranking.of_answers([{"role": "user", "content": f"{i}?"}], [Answer("4"), Answer("5")]) for i in range(80)
    ]
    made = gold_pairs(rankings, seed=0)
    assert 25 < sum(it.first_is_right for it in made) < 55
    assert all((it.pair.first.text == "4") == it.first_is_right for it in made)
    assert [it.first_is_right for it in gold_pairs(rankings, seed=1)] != [it.first_is_right for it in made]


# ------------------------------------------------------------------------------------------------------------ labelling


def candidates(count: int) -> list[Candidates]:
    texts = ["4", "5", "4", " ", "6"]
    verdicts = [Verdict(float(text == "4"), 1.0, 0.0) for text in texts]
    return [Candidates(Problem(f"{i}: 2+2?", "4", {}), [Answer(it) for it in texts], verdicts) for i in range(count)]


def label(judge: Judge, *, swap: bool = True, seed: int = 0, per_problem: int = 3):
    return label_pairs(candidates(30), judge, seed=seed, per_problem=per_problem, swap=swap, system_prompt=None)


def test_pairs_have_the_judges_label() -> None:
    """Of "4", "5" and "6" three pairs a problem, two of them of a right and a wrong answer; 5 against 6 is a tie."""
    labelled = label(by_place(0.9, right=0.05))
    assert len(labelled.rankings) == 60
    assert labelled.undecided == 30
    assert {it.completions[0][0]["content"] for it in labelled.rankings} == {"4"}
    assert labelled.agreement is not None
    assert (labelled.agreement.value, labelled.agreement.n) == (1.0, 60)
    assert "30 pairs left out" in labelled.lines()[0]
    assert "in 1.000 [0.886, 1.000] of the 60 pairs" in labelled.lines()[1]
    chosen = [it.completions for it in label(by_place(0.9, right=0.05), per_problem=1).rankings]
    assert len(chosen) < 30
    assert chosen != [it.completions for it in label(by_place(0.9, right=0.05), per_problem=1, seed=1).rankings]


def test_without_swapping_the_place_decides() -> None:
    labelled = label(by_place(0.9, right=0.05), swap=False)
    assert len(labelled.rankings) == 90
    assert labelled.agreement is not None
    assert 0.3 < labelled.agreement.value < 0.7


# ---------------------------------------------------------------------------------------------------------------- local


@pytest.fixture(scope="module")
def embedded() -> LocalModel:
    return LocalModel("embedded")


def test_a_likelihood_is_the_models_own(embedded: LocalModel) -> None:
    """As transformers has it for the same tokens, with the end token; a verdict is a softmax over two words."""
    (both,) = embedded.logp([(ASKED, ["4", "14"])])
    conversation = encode_conversation(embedded.tokenizer, [*ASKED, {"role": "assistant", "content": "14"}])
    tokens = torch.tensor([[*conversation.prompt, *conversation.completion]])
    table = embedded.model(tokens).logits.log_softmax(-1)[0, len(conversation.prompt) - 1 : -1]
    wanted = table.gather(1, torch.tensor(conversation.completion)[:, None])[:, 0]
    assert both[1] == pytest.approx(wanted.tolist(), abs=1e-4)
    assert len(both[1]) == 3, "two letters and the end"
    for by, aggregate in (("mean_logp", lambda x: sum(x) / len(x)), ("sum_logp", sum), ("min_logp", min)):
        (p,) = LikelihoodJudge(embedded, by).prefer_first([Pair(ASKED, "4", "14")])
        assert math.log(p / (1 - p)) == pytest.approx(aggregate(both[0]) - aggregate(both[1]), abs=1e-6)
    (p,) = embedded.choose(["2+2?"], ("4", "14"))
    assert p == pytest.approx(math.exp(both[0][0]) / (math.exp(both[0][0]) + math.exp(sum(both[1][:2]))), abs=1e-6)


def test_what_a_model_cannot_read_is_refused(embedded: LocalModel) -> None:
    with pytest.raises(
        UserError, match=r"judge: a question with its answers takes \d+ tokens.* reads 1024 tokens at most"
    ):
        embedded.choose(["x" * 1100], ("A", "B"))
    with pytest.raises(UserError, match="does not know more than a tenth of the tokens of 1 of 1 prompts"):
        embedded.choose(["是不是这样"], ("A", "B"))


def test_each_method_is_opened() -> None:
    assert isinstance(open_judge(JudgeConfig(model="embedded")), PairJudge)
    assert isinstance(open_judge(JudgeConfig(model="embedded", by="sum_logp")), LikelihoodJudge)
    assert isinstance(open_judge(JudgeConfig(model="embedded", rubric={"a": "b?"})), RubricJudge)


def test_the_audit_command(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """On a policy's own answers and on a file of pairs; the table is what is written."""
    small = ["--judge", "{model: embedded, by: mean_logp}", "--problems", "6", "--max_new_tokens", "48"]
    assert command.main([*small, "--output", str(tmp_path / "a.jsonl")]) == 0
    records = [json.loads(line) for line in (tmp_path / "a.jsonl").open()]
    assert {"data", "metric", "value", "n", "low", "high", "judge"} <= set(records[0])
    assert {it["judge"] for it in records} == {"embedded (mean_logp)"}
    assert records[1]["metric"] == "accuracy"
    assert f"accuracy                   {records[1]['value']:.3f} [" in capfd.readouterr().out
    file = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"{i}+1", "chosen": str(i + 1), "rejected": f"{i}{i}"} for i in range(2, 6)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = ["--judge", "embedded", "--data", str(file), "--output", str(tmp_path / "b.jsonl"), "--max_samples", "3"]
    assert command.main(asked) == 0
    assert json.loads((tmp_path / "b.jsonl").open().readline())["n"] == 3


# --------------------------------------------------------------------------------------------------------------- rubric


def rubric(answer: Callable[[str], float | None]) -> Rubric:
    config = JudgeConfig(model="none", rubric={"number": {"ask": "A number?", "weight": 3}, "short": "Is it short?"})
    made = Rubric(config)
    made.__dict__["chooser"] = Says(answer)
    return made


def test_a_rubric_is_the_weighted_mean_of_its_criteria() -> None:
    """3/4 of the first and 1/4 of the second; without one of the verdicts there is no score."""

    def met(question: str) -> float | None:
        if "A number?" in question:
            return float("Answer:\n4\n" in question)
        return None if "Answer:\nlong" in question else 0.2

    made = rubric(met)
    assert made.shares == {"number": 0.75, "short": 0.25}
    assert made.scores([(ASKED, "4"), (ASKED, Answer("four")), (ASKED, "long")]) == [pytest.approx(0.8), 0.05, None]
    judge = RubricJudge(made.config)
    judge.rubric = made
    first, none = judge.prefer_first([Pair(ASKED, "4", "four"), Pair(ASKED, "4", "long")])
    assert first == pytest.approx(1 / (1 + math.exp(-0.75)))
    assert none is None
    assert [it.mean for it in compare(judge, [Pair(ASKED, "four", "4")])] == [pytest.approx(1 - first)]


def test_a_criterion_is_a_reward_function() -> None:
    """Of texts and of messages; without a verdict it counts as not met."""
    reward = CriterionReward(rubric(lambda q: None if "Answer:\nlong" in q else 0.3), "short")
    said = [{"role": "assistant", "content": "4"}]
    assert reward(prompts=["2+2?", ASKED, "2+2?"], completions=["4", said, "long"]) == [0.3, 0.3, 0.0]
