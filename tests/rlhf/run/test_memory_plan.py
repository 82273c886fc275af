"""What --plan says of memory, without a network and without loading a model."""

import re
from importlib import import_module

import pytest

from direct_alignment.config import read as read_alignment
from direct_alignment.train import plan as plan_alignment
from distillation.config import DistillationConfig
from distillation.train import plan as plan_distillation
from policy_gradients.config import PolicyGradientConfig
from policy_gradients.train import main
from policy_gradients.train import plan as plan_policy
from policy_gradients.train import read as read_policy
from reward_models.config import PreferenceConfig
from reward_models.plan import plan as plan_reward
from rlhf.run.memory_plan import Need, Plan, Sampled, memory_needs, show_plan


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str, **_: object) -> None:
        pytest.fail(f"{name} was asked for")

    monkeypatch.setattr("rlhf.run.memory_plan.find_model", fail)


def grpo(**settings: object) -> PolicyGradientConfig:
    return PolicyGradientConfig(
        **{"model_name": "Qwen/Qwen3-1.7B", "precision": "bf16", "device": "cpu", "max_new_tokens": 512} | settings
    )


def needs(plan: Plan) -> dict[str, float]:
    return {need.what: need.gigabytes for need in plan.memory}


def test_sampling_and_training_take_turns() -> None:
    plan = Plan("", "", [Need("a", 1.0, ""), Need("b", 2.0, "", "sampling"), Need("c", 3.0, "", "training")])
    assert plan.peak_gb == 4.0


def test_with_lora_frozen_weights_take_two_bytes_and_a_reference_none() -> None:
    """1.7 billion weights: 3.4 GB and the adapters', whose gradients and moments alone are there."""
    plan = plan_policy(grpo(lora_rank=32, kl_coef=0.1))
    assert needs(plan)["weights"] == pytest.approx(2 * 1.7206 + 4 * 0.0349, abs=0.01)
    assert needs(plan)["optimizer"] == pytest.approx(8 * 0.0349, abs=0.01)
    assert not {"reference model", "autocast copies"} & needs(plan).keys()


def test_without_lora_a_frozen_reference_is_kept_in_bf16() -> None:
    found = needs(plan_policy(grpo(kl_coef=0.1)))
    assert found["weights"] == pytest.approx(4 * 1.7206, abs=0.01)
    assert found["reference model"] == pytest.approx(2 * 1.7206, abs=0.01)
    in_fp32 = needs(plan_policy(grpo(kl_coef=0.1, precision="fp32")))
    assert in_fp32["reference model"] == pytest.approx(4 * 1.7206, abs=0.01)


def test_a_reference_that_is_offloaded_is_there_while_it_scores() -> None:
    """Gradients and activations take more than it does, at other times: the peak is lower by the whole of it."""
    stays, leaves = (plan_policy(grpo(kl_coef=0.1, offload_reference=it)) for it in (False, True))
    assert needs(leaves)["reference model"] == needs(stays)["reference model"]
    assert [need.phase for need in leaves.memory if need.what == "reference model"] == ["scoring"]
    assert stays.peak_gb - leaves.peak_gb == pytest.approx(2 * 1.7206, abs=0.01)


def test_on_a_cpu_decoding_takes_a_copy_of_the_weights() -> None:
    """1.4 billion in 28 layers, 2 bytes each under autocast, and 0.3 of the vocabulary; none for a card."""
    (copy,) = [need for need in memory_needs(grpo(), sampled=[Sampled(1, 8, 512)]) if need.what == "packed weights"]
    assert copy.phase == "sampling"
    assert copy.gigabytes == pytest.approx(2 * (1.4093 + 0.3112), abs=0.01)
    for settings, completions in ((grpo(), 7), (grpo(memory_gb=16), 8)):
        sampled = [Sampled(1, completions, 512)]
        assert "packed weights" not in {need.what for need in memory_needs(settings, sampled=sampled)}


def test_the_key_value_cache_is_that_of_the_completions_decoded_together() -> None:
    """28 layers, 8 heads of 128 numbers, keys and values, 2 bytes: 114,688 bytes a token, of each completion, and once
    of its prompt; logits of 151,936 tokens, 12 bytes each. What takes most counts: training or evaluation."""

    def of(*sampled: Sampled) -> float:
        return memory_needs(grpo(), sampled=sampled)[-1].gigabytes

    completion, prompt = (512 * 114_688 + 12 * 151_936) / 1e9, 100 * 114_688 / 1e9
    assert of(Sampled(1, 1, 512, prompt=100)) == pytest.approx(completion + prompt)
    assert of(Sampled(3, 2, 512, prompt=100)) == pytest.approx(6 * completion + 3 * prompt)
    assert of(Sampled(1, 1, 512, prompt=100), Sampled(6, 1, 512, prompt=100)) == pytest.approx(
        6 * (completion + prompt)
    )
    assert of(Sampled(0, 8, 512), Sampled(1, 1, 512, prompt=100)) == pytest.approx(completion + prompt)


def test_prompts_that_are_long_are_read_a_few_at_a_time() -> None:
    """2048 numbers wide, 6144 in between: a prompt of 4,000 tokens takes 0.46 GB, and reading it 0.28 GB, more than a
    completion of 16 tokens. Five of them take a quarter of 15 GB."""
    settings = grpo(memory_gb=15)
    (need,) = [it for it in memory_needs(settings, sampled=[Sampled(100, 1, 16, prompt=4000)]) if "cache" in it.what]
    assert need.why.startswith("5 completions of 16 tokens at once, of prompts of 4,000")
    assert need.gigabytes == pytest.approx(5 * 4000 * (114_688 + 2 * (8 * 2048 + 3 * 6144)) / 1e9)


def test_a_teacher_is_frozen_beside_the_student_or_there_to_sample_alone() -> None:
    """4.02 billion weights, of 2 bytes where it scores, of 4 where it writes texts; the student as its own live teacher
    takes nothing, and a fixed one is a copy."""

    def of(**settings: object) -> tuple[dict[str, float], set[str]]:
        given = {"model_name": "Qwen/Qwen3-0.6B", "precision": "bf16", "device": "cpu", **settings}
        plan = plan_distillation(DistillationConfig(**given))
        return needs(plan), {need.phase for need in plan.memory if need.what == "teacher"}

    scores, when = of(teacher="Qwen/Qwen3-4B")
    assert scores["teacher"] == pytest.approx(2 * 4.022, abs=0.01)
    assert when == {"always"}
    writes, when = of(teacher="Qwen/Qwen3-4B", objective="sequence", on_policy_share=0)
    assert writes["teacher"] == pytest.approx(4 * 4.022, abs=0.01)
    assert when == {"sampling"}
    live, _ = of(teacher_sees="attempt", teacher_moves="live")
    assert not {"teacher", "reference model"} & live.keys()
    fixed, _ = of(teacher_temperature=0.3)
    assert fixed["reference model"] == pytest.approx(2 * 0.596, abs=0.01)


def test_checkpointing_keeps_the_states_between_layers() -> None:
    whole, less = (needs(plan_policy(grpo(gradient_checkpointing=on)))["activations"] for on in (False, True))
    assert less < whole / 8
    half = needs(plan_policy(grpo(gradient_checkpointing=True, token_budget=4096)))["activations"]
    assert half == pytest.approx(less / 2)


def test_a_reward_model_has_no_logits_over_the_vocabulary() -> None:
    plan = plan_reward("Preference RM", PreferenceConfig(model_name="Qwen/Qwen3-0.6B-Base", device="cpu"))
    assert "logits" not in needs(plan)


def test_low_memory_takes_six_bytes_a_weight() -> None:
    found = needs(plan_policy(grpo(low_memory=True)))
    assert [found[what] for what in ("weights", "gradients", "optimizer")] == pytest.approx(3 * [2 * 1.7206], abs=0.01)
    assert "autocast copies" not in found


def test_processes_share_what_is_sampled_and_with_fsdp_what_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    """While they sample, each has the whole model beside its share; while they learn, an embedding and two layers."""
    alone = needs(plan_policy(grpo(fsdp=True, eval_problems=4)))
    assert not {"whole model", "gathered"} & alone.keys()
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "0")
    together, sharded = (needs(plan_policy(grpo(fsdp=it, eval_problems=4))) for it in (False, True))
    assert together["key-value cache"] == sharded["key-value cache"] == pytest.approx(alone["key-value cache"] / 4)
    assert together["optimizer"] == alone["optimizer"]
    for what in ("weights", "gradients", "optimizer"):
        assert sharded[what] == pytest.approx(alone[what] / 4)
    assert sharded["whole model"] == pytest.approx(alone["weights"])
    assert alone["weights"] / 4 < sharded["gathered"] < alone["weights"]  # of 1.72 billion weights, 0.31 are embeddings


def test_the_first_process_alone_shows_the_plan(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--plan", "--model_name", "Qwen/Qwen3-1.7B", "--device", "cpu", "--fsdp", "true"]
    monkeypatch.setattr("sys.argv", ["policy_gradients.train", *arguments])
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, shown in (("1", False), ("0", True)):
        monkeypatch.setenv("RANK", rank)
        assert main() == 0
        assert ("a share of 1/2" in capsys.readouterr().out) == shown


def test_completions_decoded_together_take_a_quarter_of_the_memory_at_most() -> None:
    for settings in (grpo(memory_gb=16, prompts_per_step=64), grpo(memory_gb=16, eval_problems=500)):
        assert 3.4 < needs(plan_policy(settings))["key-value cache"] <= 4.0
    assert needs(plan_policy(grpo(memory_gb=16, prompts_per_step=64, sampling_batch=200)))["key-value cache"] > 12


@pytest.mark.parametrize(
    "command",
    [
        "policy_gradients.train --config policy_gradients/configs/grpo.yaml --memory_gb 16",
        "policy_gradients.train --config policy_gradients/configs/ppo.yaml --memory_gb 16",
        "direct_alignment.train --config direct_alignment/configs/dpo.yaml --memory_gb 16",
        "reward_models.train_preference_rm --config reward_models/configs/preference_rm.yaml --memory_gb 8",
        "reward_models.train_preference_rm --memory_gb 16 --model_name Qwen/Qwen3-1.7B",
    ],
)
def test_the_gpu_blocks_fit_their_cards_as_they_are(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*command.split(), "--plan", "--profile", "gpu", "--device", "cpu", "--precision", "bf16"]
    monkeypatch.setattr("sys.argv", arguments)
    assert import_module(arguments[0]).main() == 0
    assert "fits in" in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--memory_gb 16", "fits in 16 GB"),
        (
            "--memory_gb 14",
            "may not fit in 14 GB (a peak can be 10% above its plan); it would with --token_budget 4096 (12.40 GB), "
            "or with --lora_rank 32 --low_memory false (7.28 GB)",
        ),
        (
            "--memory_gb 16 --low_memory false",
            "does NOT fit in 16 GB; it would with --low_memory true (13.66 GB), or with --lora_rank 32 (7.28 GB)",
        ),
        (
            "--memory_gb 2",
            "does NOT fit in 2 GB; with --token_budget 2048 --lora_rank 32 --low_memory false it takes 5.14 GB still: "
            "choose a smaller model, or a larger card",
        ),
    ],
)
def test_it_says_whether_a_card_is_large_enough_and_what_gets_there(arguments: str, said: str) -> None:
    given = f"--loss dpo --profile gpu --device cpu --precision bf16 {arguments}"
    command = read_alignment(given.split())
    assert show_plan(command, plan_alignment).splitlines()[-1] == said


@pytest.mark.parametrize("arguments", ["--memory_gb 8", "--memory_gb 16 --lora_rank 0 --low_memory true"])
def test_every_setting_that_is_said_to_fit_does(arguments: str) -> None:
    """Among them none that acts on another phase than the peak's: sampling_batch would."""
    given = f"--algorithm grpo --profile gpu --device cpu --precision bf16 {arguments}"
    command = read_policy(given.split())
    *_, last = show_plan(command, plan_policy).splitlines()
    offered = re.findall(r"with (--.*?) \(", last)
    assert "--token_budget 4096" in offered
    for changes in offered:
        config = read_policy([*given.split(), *changes.split()]).config
        assert plan_policy(config).peak_gb * 1.1 <= config.memory_gb
