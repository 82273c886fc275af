"""Learning rates, optimizer steps and the sharing of work."""

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator, DistributedType
from accelerate.commands.config.config_args import load_config_from_file
from torch import nn
from transformers import Qwen3Config, Qwen3ForSequenceClassification

from rlhf.distributed import (
    RANKS,
    SIZES,
    all_reduce_sum,
    command_for_several,
    device_of,
    gather,
    gather_rows,
    led_by_main,
    local_rows,
    local_shard,
    make_accelerator,
    processes_asked,
    refuse_uneven,
)
from rlhf.errors import UserError
from rlhf.groups import Group, micro_batches
from rlhf.logprobs import Scorer
from rlhf.models.heads import HeadScorer
from rlhf.optimizer import (
    NotFiniteError,
    backward,
    check_finite,
    in_turn,
    learning_rate,
    make_optimizer,
    optimizer_step,
)


def rates(schedule: str, warmup: int, steps: int) -> list[float]:
    return [
        learning_rate(step, peak=8.0, warmup_steps=warmup, max_steps=steps, schedule=schedule) for step in range(steps)
    ]


def test_learning_rates_by_hand() -> None:
    """Warm-up over 4 steps in quarters; then 8 steps that would reach 0 one step after the last.

    cosine: (1 + cos(pi k/8)) / 2 of the peak, half of it in the middle.
    """
    assert rates("constant", 4, 6) == [2, 4, 6, 8, 8, 8]
    assert rates("constant", 0, 2) == [8, 8]
    assert rates("linear", 4, 12) == [2, 4, 6, 8, 8, 7, 6, 5, 4, 3, 2, 1]
    cosine = rates("cosine", 0, 8)
    assert cosine == pytest.approx([4 * (1 + math.cos(math.pi * k / 8)) for k in range(8)])
    assert cosine[4] == pytest.approx(4)
    assert 0 < cosine[7] < 0.5


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_learning_rates_stay_in_range(schedule: str) -> None:
    """Also where the warm-up is longer than the run, and behind its end."""
    for warmup, steps in ((0, 1), (5, 3), (3, 3), (2, 50)):
        assert all(0 < rate <= 8 for rate in rates(schedule, warmup, steps))
    past = learning_rate(99, peak=8.0, warmup_steps=0, max_steps=10, schedule=schedule)
    assert past == (8 if schedule == "constant" else 0) or schedule == "cosine"
    assert past >= 0


@pytest.fixture
def accelerator() -> Accelerator:
    return Accelerator(cpu=True)


def test_optimizer_step_clips_and_clears(accelerator: Accelerator) -> None:
    """A gradient of (3, 4) has norm 5; clipped to 1 it is (0.6, 0.8). The norm before clipping is returned.

    SGD with lr 0.5 moves the weight by -(0.3, 0.4).
    """
    model = nn.Linear(2, 1, bias=False)
    model.weight.data.zero_()
    model.weight.grad = torch.tensor([[3.0, 4.0]])
    optimizer = torch.optim.SGD(model.parameters(), lr=99.0)
    assert optimizer_step(accelerator, model, optimizer, lr=0.5, max_grad_norm=1.0) == pytest.approx(5)
    torch.testing.assert_close(model.weight.data, torch.tensor([[-0.3, -0.4]]), atol=1e-5, rtol=0)
    assert model.weight.grad is None


def test_a_gradient_that_is_not_finite_stops_the_run(accelerator: Accelerator) -> None:
    model = nn.Linear(2, 1, bias=False)
    before = model.weight.detach().clone()
    model.weight.grad = torch.tensor([[float("nan"), 1.0]])
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    with pytest.raises(NotFiniteError, match="gradient norm is nan"):
        optimizer_step(accelerator, model, optimizer, lr=0.5, max_grad_norm=1.0)
    assert torch.equal(model.weight, before), "nothing was stepped"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_loss_that_is_not_finite_saves_its_batch(tmp_path, value: float) -> None:
    check_finite(torch.tensor(1.0), tmp_path, adv=torch.ones(2, 1))
    assert not list(tmp_path.iterdir())
    with pytest.raises(NotFiniteError):
        check_finite(torch.tensor(value), tmp_path, adv=torch.ones(2, 1))
    saved = torch.load(tmp_path / "not_finite.pt", weights_only=False)
    assert saved["adv"].tolist() == [[1], [1]]


def test_only_matrices_decay() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))
    model[0].weight.requires_grad_(True)
    optimizer = make_optimizer(model, lr=0.1, betas=(0.8, 0.9), weight_decay=0.01)
    by_decay = {
        decay: [p for g in optimizer.param_groups if g["weight_decay"] == decay for p in g["params"]]
        for decay in (0.01, 0.0)
    }
    assert [p.shape for p in by_decay[0.01]] == [(3, 2)]
    assert [p.ndim for p in by_decay[0.0]] == [1, 1, 1]
    model[0].weight.requires_grad_(False)
    frozen = make_optimizer(model, lr=0.1, betas=(0.8, 0.9), weight_decay=0.01)
    assert sum(len(group["params"]) for group in frozen.param_groups) == 3
    assert all(group["betas"] == (0.8, 0.9) for group in frozen.param_groups)


def test_new_weights_learn_faster() -> None:
    """AdamW's first step is lr * sign(gradient), so a new weight moves `new_factor` times as far as the others."""
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    new = list(model[1].parameters())
    optimizer = make_optimizer(model, lr=1.0, betas=(0.9, 0.9), weight_decay=0.0, new=new, new_factor=4.0)
    before = [p.detach().clone() for p in model.parameters()]
    model(torch.ones(1, 2)).sum().backward()
    optimizer_step(Accelerator(cpu=True), model, optimizer, lr=0.01, max_grad_norm=1.0)
    moved = [float((p - b).abs().max()) for p, b in zip(model.parameters(), before, strict=True)]
    assert moved == pytest.approx([0.01, 0.01, 0.04, 0.04], rel=1e-4)


class Process(Accelerator):
    def __init__(self, index: int, count: int):
        self.state = SimpleNamespace(process_index=index, num_processes=count)


def test_shares_cover_everything_once() -> None:
    items = list(range(11))
    parts = [local_shard(items, Process(i, 3)) for i in range(3)]
    assert sorted(item for part in parts for item in part) == items
    assert parts[1] == [1, 4, 7, 10]


@pytest.mark.parametrize(("count", "length"), [(1, 5), (2, 5), (3, 11), (3, 2), (4, 0)])
def test_what_was_shared_out_is_gathered_in_its_order(monkeypatch, count: int, length: int) -> None:
    """Of things that cannot be sorted; with one process nothing is exchanged."""
    items = [{"item": length - i} for i in range(length)]
    processes = [Process(i, count) for i in range(count)]
    parts = [local_shard(items, process) for process in processes]
    sent: list = []
    monkeypatch.setattr("rlhf.distributed.gather_object", lambda part: sent.extend(part) or part)
    alone = [gather(part, process) for part, process in zip(parts, processes, strict=True)]
    assert len(sent) == (0 if count == 1 else length)
    assert count > 1 or alone == [items]
    monkeypatch.setattr("rlhf.distributed.gather_object", lambda part: list(sent))
    assert count == 1 or all(gather(p, process) == items for p, process in zip(parts, processes, strict=True))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_rows_of_tensors_are_shared_and_gathered_like_lists(count: int) -> None:
    """Row k belongs to process k mod count; gathered, they stand in their order again, of whatever shape."""

    class Gathering(Process):
        def gather(self, tensor: torch.Tensor) -> torch.Tensor:
            calls.append(tensor)
            return torch.cat(parts)

    calls: list[torch.Tensor] = []
    for shape in ((6,), (6, 2), (6, 2, 3)):
        rows = torch.arange(math.prod(shape)).view(shape)
        parts = [local_rows(rows, Process(i, count)) for i in range(count)]
        assert [part.tolist() for part in parts] == [rows[i::count].tolist() for i in range(count)]
        for i, part in enumerate(parts):
            assert torch.equal(gather_rows(part, Gathering(i, count)), rows)
    assert len(calls) == (0 if count == 1 else 3 * count)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_numbers_are_summed_in_double_precision(count: int) -> None:
    """16777217 is the first whole number that fp32 has not."""

    class Summing(Process):
        def reduce(self, tensor: torch.Tensor, reduction: str = "sum", scale: float = 1.0) -> torch.Tensor:
            assert (tensor.dtype, tensor.device.type, reduction) == (torch.float64, "cpu", "sum")
            calls.append(tensor.tolist())
            return tensor * count

    calls: list[list[float]] = []
    numbers = [2.0**24 + 1, 0.5, -3.0]
    process = Summing(0, count)
    process.state.device = torch.device("cpu")
    assert all_reduce_sum(numbers, process) == [number * count for number in numbers]
    assert calls == ([] if count == 1 else [numbers])


def led(monkeypatch, count: int, *, told: bool | None = None) -> list[list[bool]]:
    """Where `led_by_main` says whether the main process failed; `told`: what another process hears of it."""
    sent: list[list[bool]] = []

    def broadcast(failed: list[bool]) -> None:
        sent.append(list(failed))
        if told is not None:
            failed[:] = [told]

    monkeypatch.setattr("rlhf.distributed.broadcast_object_list", broadcast)
    return sent


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_main_process_says_whether_it_failed(monkeypatch, count: int) -> None:
    sent = led(monkeypatch, count)
    done = []
    with led_by_main(Process(0, count)):
        done.append(True)
    assert done
    assert sent == ([] if count == 1 else [[False]])
    sent.clear()
    with pytest.raises(KeyError, match="its own error"), led_by_main(Process(0, count)):
        raise KeyError("its own error")
    assert sent == ([] if count == 1 else [[True]])


def test_the_others_end_where_the_main_process_failed(monkeypatch) -> None:
    led(monkeypatch, 2, told=True)
    with pytest.raises(SystemExit) as end, led_by_main(Process(1, 2)):
        pass
    assert end.value.code == 2
    led(monkeypatch, 2, told=False)
    with led_by_main(Process(1, 2)):
        pass


# ------------------------------------------------------------------------------------- what was asked for is there


@pytest.fixture
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in (
        *SIZES,
        *RANKS,
        "LOCAL_RANK",
        "MASTER_ADDR",
        "ACCELERATE_MIXED_PRECISION",
        "ACCELERATE_USE_CPU",
        "ACCELERATE_USE_FSDP",
    ):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.mark.parametrize(
    ("said", "processes"),
    [
        ({}, 1),
        ({"MASTER_ADDR": "node0"}, 1),  # a cluster's own
        ({"ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_USE_CPU": "True"}, 1),  # accelerate launch --num_processes 1
        ({"WORLD_SIZE": "3", "RANK": "2", "LOCAL_RANK": "2", "MASTER_ADDR": "127.0.0.1"}, 3),  # torchrun
        ({"WORLD_SIZE": "1", "RANK": "0", "MASTER_ADDR": "x", "ACCELERATE_MIXED_PRECISION": "no"}, 1),
        ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"}, 2),  # mpirun
        ({"PMI_SIZE": "4", "PMI_RANK": "0"}, 4),  # MPICH
        ({"MV2_COMM_WORLD_SIZE": "5", "MV2_COMM_WORLD_RANK": "0"}, 5),  # MVAPICH2
        ({"WORLD_SIZE": "2", "PMI_RANK": "0"}, 2),
        ({"WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0"}, 2),
        ({"WORLD_SIZE": "2", "MV2_COMM_WORLD_RANK": "0"}, 2),
        ({"PMI_SIZE": "2", "WORLD_SIZE": "3", "RANK": "0"}, 2),  # MPI's variables come first
        ({"WORLD_SIZE": "1"}, 1),  # which needs no number
    ],
)
def test_processes_asked_for_are_counted(no_launcher, said: dict[str, str], processes: int) -> None:
    for name, value in said.items():
        no_launcher.setenv(name, value)
    assert processes_asked() == processes


@pytest.mark.parametrize(
    ("said", "message"),
    [
        # What `accelerate launch --cpu --num_processes 2` gives to the one process that it starts.
        ({"ACCELERATE_MIXED_PRECISION": "no", "MASTER_ADDR": "127.0.0.1"}, "asked for several.*starts one"),
        ({"WORLD_SIZE": "2"}, "no RANK says which"),
        ({"WORLD_SIZE": "two", "RANK": "0"}, "WORLD_SIZE is 'two', wanted a number"),
        ({"WORLD_SIZE": "0", "RANK": "0"}, "WORLD_SIZE is '0', wanted a number"),
    ],
)
def test_one_process_for_several_is_refused(no_launcher, tmp_path, said: dict[str, str], message: str) -> None:
    for name, value in said.items():
        no_launcher.setenv(name, value)
    with pytest.raises(UserError, match=message) as refused:
        make_accelerator(device="cpu", precision="fp32", trackers=[], run_path=tmp_path)
    assert "torchrun --standalone --nproc_per_node N" in str(refused.value.hint)


def test_an_fsdp_config_of_the_launcher_is_refused(no_launcher) -> None:
    no_launcher.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(UserError, match="FSDP config, which runs do not read") as refused:
        processes_asked()
    assert "--fsdp true" in str(refused.value.hint)


@pytest.mark.parametrize(("name", "machines"), [("one_node", 1), ("two_nodes", 2)])
def test_launch_files_are_read_by_accelerate(name: str, machines: int) -> None:
    config = load_config_from_file(str(Path(__file__).parents[2] / "launch" / f"{name}.yaml"))
    assert config.distributed_type == DistributedType.MULTI_GPU
    assert config.num_machines == machines


def one_on_cpu(**_) -> SimpleNamespace:
    """What Accelerate makes of settings that it cannot have."""
    return SimpleNamespace(device=torch.device("cpu"), num_processes=1)


def test_processes_that_would_train_apart_are_refused(no_launcher, tmp_path) -> None:
    """Two were started, but Accelerate knows of one, as on a device that it cannot spread over processes."""
    no_launcher.setattr(
        "rlhf.distributed.Accelerator", lambda **_: SimpleNamespace(device=torch.device("cpu"), num_processes=1)
    )
    no_launcher.setenv("WORLD_SIZE", "2")
    no_launcher.setenv("RANK", "0")
    with pytest.raises(UserError, match="started 2, but on cpu each would train by itself"):
        make_accelerator(device="cpu", precision="fp32", trackers=[], run_path=tmp_path)


def machine(patch: pytest.MonkeyPatch, *, cuda: int, mps: bool) -> None:
    patch.setattr("torch.cuda.is_available", lambda: cuda > 0)
    patch.setattr("torch.cuda.device_count", lambda: cuda)
    patch.setattr("torch.backends.mps.is_available", lambda: mps)


def test_auto_alone_falls_back(no_launcher) -> None:
    machine(no_launcher, cuda=0, mps=True)
    assert device_of("auto").type == "cpu"
    assert device_of("mps").type == "mps"
    for wanted in ("cuda", "cuda:7"):
        with pytest.raises(UserError, match=f"there is no {wanted} device here"):
            device_of(wanted)
    machine(no_launcher, cuda=2, mps=False)
    assert device_of("auto").type == device_of("cuda").type == device_of("cuda:1").type == "cuda"
    with pytest.raises(UserError, match="no mps device"):
        device_of("mps")
    with pytest.raises(UserError, match="2 CUDA devices are"):
        device_of("cuda:2")
    no_launcher.setenv("LOCAL_RANK", "2")
    with pytest.raises(UserError, match="process 2 of this machine is not there: 2 CUDA devices are"):
        device_of("cuda")


def test_the_device_of_the_launcher_holds(no_launcher, tmp_path) -> None:
    machine(no_launcher, cuda=1, mps=False)
    no_launcher.setenv("ACCELERATE_USE_CPU", "true")
    assert device_of("auto").type == "cpu"
    with pytest.raises(UserError, match="cuda was asked for, and the CPU of the launcher"):
        device_of("cuda")
    no_launcher.delenv("ACCELERATE_USE_CPU")
    no_launcher.setattr(
        "rlhf.distributed.Accelerator", lambda **_: SimpleNamespace(device=torch.device("cpu"), num_processes=1)
    )
    with pytest.raises(UserError, match="cuda was wanted, but accelerate chose cpu"):
        make_accelerator(device="cuda", precision="fp32", trackers=[], run_path=tmp_path)


def test_every_process_has_the_same_share() -> None:
    refuse_uneven("batch_size", 6, Process(0, 3))
    refuse_uneven("prompts_per_step", 12, Process(0, 3), parts=2)
    refuse_uneven("batch_size", 7, Process(0, 1))
    for size, processes, parts, words, enough in (
        (7, 3, 1, "3 processes", 9),
        (1, 2, 1, "2 processes", 2),
        (9, 3, 2, "3 processes x 2 optimizer steps", 12),
        (13, 2, 3, "2 processes x 3 optimizer steps", 18),
        (5, 1, 2, "1 processes x 2 optimizer steps", 6),
    ):
        with pytest.raises(UserError, match=f"^batch_size {size} is not a multiple of {words}$") as refused:
            refuse_uneven("batch_size", size, Process(0, processes), parts=parts)
        assert f"--batch_size {enough}, say" in str(refused.value.hint)


@pytest.mark.parametrize(
    ("given", "command"),
    [
        (["python", "-m", "reward_models.train_orm", "--lr", "1"], "-m reward_models.train_orm --lr 1"),
        (["python"], "-m policy_gradients.train"),
    ],
)
def test_the_command_for_several_processes_is_this_one(monkeypatch, given: list[str], command: str) -> None:
    monkeypatch.setattr("sys.orig_argv", given)
    assert command_for_several() == f"uv run torchrun --standalone --nproc_per_node N {command}"


@pytest.mark.parametrize("kind", ["policy", "judge"])
def test_a_process_without_work_has_a_gradient_of_zero(qwen3: nn.Module, accelerator: Accelerator, kind: str) -> None:
    """Exactly 0 and not None, in every weight: that is what the exchange of gradients waits for."""
    judge = Qwen3ForSequenceClassification(
        Qwen3Config(**{**qwen3.config.to_dict(), "num_labels": 1, "pad_token_id": 0})
    )
    module = Scorer(qwen3) if kind == "policy" else HeadScorer(judge)
    module.zero_grad()
    assert list(in_turn([], accelerator, module)) == []
    gradients = [p.grad for p in module.parameters()]
    assert gradients
    assert all(g is not None and not g.any() for g in gradients)
    module.zero_grad()


def test_a_step_in_turn_is_the_step_at_once(qwen3: nn.Module, accelerator: Accelerator, tmp_path) -> None:
    scorer = Scorer(qwen3)

    def gradient(budget: int) -> list[torch.Tensor]:
        groups = [Group([1, 2], [[3, 4], [5]]), Group([2], [[6, 7, 8]])]
        scorer.zero_grad()
        for rows in in_turn(micro_batches(groups, token_budget=budget), accelerator, scorer):
            backward(-scorer(rows).logp.sum(), accelerator, tmp_path)
        return [p.grad.clone() for p in scorer.parameters() if p.grad is not None]

    whole, parts = gradient(1000), gradient(5)
    scorer.zero_grad()
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(whole, parts, strict=True))
