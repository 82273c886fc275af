"""A reference whose weights are in the processor's memory between the passes that read them.

There is no GPU here: a copy in other memory stands for the weights on one.
"""

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from steps_by_hand import save_tiny
from tiny_models import tiny_model
from torch import Tensor

from direct_alignment.config import DirectAlignmentConfig
from direct_alignment.reference import Reference
from policy_gradients.config import PolicyGradientConfig
from policy_gradients.fill import fill
from policy_gradients.train import read, train
from rlhf.errors import UserError
from rlhf.evaluate.task import proportion
from rlhf.models.offload import offload, on_device

CPU = torch.device("cpu")


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The weights that came to the device: copies in other memory."""
    made: list[Tensor] = []

    def bring(weight: Tensor, _: torch.device) -> Tensor:
        made.append(weight.clone())
        return made[-1]

    monkeypatch.setattr("rlhf.models.offload._brought", bring)
    return made


def places(model: torch.nn.Module) -> list[int]:
    return [weight.data_ptr() for weight in model.parameters()]


def test_weights_are_on_the_device_for_the_time_of_a_block(copies: list[Tensor]) -> None:
    model, tokens = tiny_model("llama"), torch.tensor([[1, 2, 3]])
    expected = model(input_ids=tokens).logits
    offload(model, CPU)
    home = places(model)
    with on_device(model, CPU):
        assert places(model) == [copy.data_ptr() for copy in copies]
        assert not set(places(model)) & set(home)
        torch.testing.assert_close(model(input_ids=tokens).logits, expected)
    assert places(model) == home


def test_a_model_that_is_there_stays_where_it_is() -> None:
    model = tiny_model("llama")
    before = places(model)
    with on_device(model, CPU):
        assert places(model) == before


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[dict[str, float]]]:
    """A function that trains, and returns the metrics of the steps."""
    folder = tmp_path_factory.mktemp("runs")
    function = folder / "mine.py"
    function.write_text("import zlib\ndef mine(prompt, completion):\n    return zlib.crc32(completion.encode()) % 97\n")
    model = save_tiny(folder / "model")

    def go(name: str, *settings: str) -> list[dict[str, float]]:
        argv = ["--profile", "laptop", "--quiet", "--device", "cpu", "--model_name", str(model), "--max_steps", "3"]
        argv += ["--prompts_per_step", "2", "--group_size", "2", "--max_new_tokens", "4", "--lr", "0.01"]
        argv += ["--kl_coef", "0.1", "--sync_reference_every", "2", "--sync_reference_mix", "0.5"]
        argv += ["--reward_weights.exact", "0", "--reward_functions", f"{{'{function}:mine': 0.01}}"]
        assert train(read([*argv, *settings, "--output_dir", str(folder / name)])).finished
        return [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()]

    return go


def test_a_run_takes_the_steps_that_it_takes_without(
    run: Callable[..., list[dict[str, float]]], copies: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a reference that follows: it moves at home, and what comes the next time has moved."""
    monkeypatch.setattr("rlhf.run.session.write_report", lambda path: path)
    monkeypatch.setattr("rlhf.evaluate.held_out.evaluate_task", lambda *_, **__: proportion(0, 1, data="d", metric="m"))
    stays = run("stays")
    copies.clear()
    monkeypatch.setattr("rlhf.run.opening.offloads_reference", lambda _: False)  # which would refuse a CPU
    offloaded = run("offloaded", "--offload_reference", "true")
    names = ("loss", "policy/kl", "optim/grad_norm")
    assert [[record[name] for name in names] for record in offloaded] == [[r[name] for name in names] for r in stays]
    assert offloaded[2]["policy/kl"] > 0
    weights = len(copies) // 3
    assert weights > 10, "they come once in each of three steps"
    first, second, third = (copies[i * weights : (i + 1) * weights] for i in range(3))
    assert all(map(torch.equal, first, second))
    assert not all(map(torch.equal, second, third))


def test_a_cpu_has_nowhere_to_offload_from(run: Callable[..., list[dict[str, float]]]) -> None:
    with pytest.raises(UserError, match="on this cpu the reference is in the processor's memory already"):
        run("refused", "--offload_reference", "true")


def test_references_of_direct_alignment_come_and_go(copies: list[Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is kept for new pairs, and one that moves."""
    from direct_alignment import reference as module

    kept, moving = tiny_model("llama"), tiny_model("llama", seed=1)
    at_home = [places(kept), places(moving)]
    it = object.__new__(Reference)
    it.kept, it.moving, it.policy, it.compared, it.layout = kept, moving, tiny_model("llama"), True, {}

    class Session:
        class config:
            lora_rank = 0

        accelerator = None

    seen: list[list[int]] = []
    it.session = Session  # type: ignore[assignment]
    monkeypatch.setattr(module, "score_all", lambda scorer, *_: seen.append(places(scorer.model)) or [])
    it.initial_logp([])
    it.score([])
    for where, home in zip(seen, at_home, strict=True):
        assert not set(where) & set(home)
    assert [places(kept), places(moving)] == at_home


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"kl_coef": 0.1, "lora_rank": 8}, "under the adapters"),
        ({"kl_coef": 0}, "would act on nothing: there is no KL and no reference"),
    ],
)
def test_without_a_reference_of_its_own_it_is_refused(settings: dict[str, Any], why: str) -> None:
    with pytest.raises((ValueError, UserError), match=why):
        fill(PolicyGradientConfig(offload_reference=True, **settings))


@pytest.mark.parametrize("settings", [{}, {"reference": "none", "loss": "simpo", "online_every": 2}])
def test_pairs_that_stay_keep_no_reference_to_offload(settings: dict[str, Any]) -> None:
    given = {"task": "step_arithmetic", "offload_reference": True}
    with pytest.raises(ValueError, match="offload_reference: it would act on nothing: no reference is kept in memory"):
        DirectAlignmentConfig(**given, **settings)
    assert DirectAlignmentConfig(**given, sync_reference_every=2).keeps_reference
