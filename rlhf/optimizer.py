"""A step of an optimizer: the gradient of its micro-batches, clipping, AdamW, the schedule of the learning rate."""

import math
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from rlhf.distributed import gather
from rlhf.errors import UserError
from rlhf.groups import Group, micro_batches
from rlhf.models.sharding import Sharded

NOT_FINITE = "not_finite.pt"  # the batch whose loss is not finite, in the run directory


def make_optimizer(
    model: nn.Module,
    *,
    lr: float,
    betas: tuple[float, float],
    weight_decay: float,
    new: Sequence[nn.Parameter] = (),
    new_factor: float = 1.0,
):
    """AdamW; matrices decay, norms and biases do not. `new` weights learn at `new_factor` times the learning rate.

    Weights in bf16 get the AdamW that rounds at random and keeps its moments in 8 bits: see `rlhf.models.low_memory`.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    fresh = {id(p) for p in new} if new_factor != 1 else set()
    groups = [
        {
            "params": [p for p in trained if (p.ndim >= 2) == matrix and (id(p) in fresh) == is_new],
            "weight_decay": weight_decay if matrix else 0.0,
            "factor": new_factor if is_new else 1.0,
        }
        for is_new in (False, True)
        for matrix in (True, False)
    ]
    groups = [group for group in groups if group["params"]]
    if any(p.dtype == torch.bfloat16 for p in trained):
        from rlhf.models.low_memory import LowMemoryAdamW  # torchao takes a second to load

        return LowMemoryAdamW(groups, lr=lr, betas=betas, eps=1e-8)
    fused = all(p.device.type in ("cpu", "cuda") for p in trained)
    return torch.optim.AdamW(groups, lr=lr, betas=betas, eps=1e-8, fused=fused)


def learning_rate(step: int, *, peak: float, warmup_steps: int, max_steps: int, schedule: str) -> float:
    """Of optimizer step `step`, counted from 0. A function of the step alone, so there is no schedule to save.

    Linear warm-up to `peak`, then `constant`, or `linear` / `cosine` decay to 0 (reached one step after the last).
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(1, max_steps - warmup_steps)
    factor = {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}[schedule]
    return peak * max(0.0, factor)


def optimizer_step(accelerator: Accelerator, module: nn.Module, optimizer, *, lr: float, max_grad_norm: float) -> float:
    """Clip, step, clear. Returns the norm of the gradient before clipping; refuses one that is not finite.

    `module` is what the backward passes went through, with all of its trained weights.
    """
    norm = accelerator.clip_grad_norm_([p for p in module.parameters() if p.requires_grad], max_grad_norm)
    norm = float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
    if not math.isfinite(norm):
        raise NotFiniteError(f"the gradient norm is {norm}")
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("factor", 1.0)  # see make_optimizer
    optimizer.step()
    optimizer.zero_grad()
    if isinstance(module, Sharded):
        module.gather_whole()
    return norm


class NotFiniteError(UserError):
    """A loss or gradient that is inf or nan. The run stops: skipping the step would hide that it is dead."""

    def __init__(self, what: str):
        super().__init__(
            f"{what}: the run stops here",
            hint=f"The batch is saved in the run directory as {NOT_FINITE}. A lower lr, a smaller max_grad_norm or "
            "precision fp32 are the first things to try; --resume continues from the last checkpoint.",
        )


def check_finite(loss: Tensor, run_path: Path, **batch) -> None:
    """Raise, with the batch saved, if the loss is inf or nan."""
    if not torch.isfinite(loss).all():
        torch.save({"loss": loss.detach().cpu(), **batch}, run_path / NOT_FINITE)
        raise NotFiniteError(f"the loss is {float(loss.detach().sum())}")


def backward(loss: Tensor, accelerator: Accelerator, run_path: Path, **batch) -> None:
    """Add the gradient of a micro-batch's share of the step's loss. `batch`: what to save if the loss is not finite.

    The step's denominator is that of all processes, and DDP takes the mean over them: hence their number.
    """
    check_finite(loss, run_path, **batch)
    accelerator.backward(loss * accelerator.num_processes)


def in_turn[T](parts: Sequence[T], accelerator: Accelerator, module: nn.Module, *, calls: int = 1) -> Generator[T]:
    """The micro-batches of an optimizer step, for a loop that calls `module` and then `backward` with each: `backward`
    once, `module` so many times.

    Processes exchange their gradients once, in the backward pass of the last micro-batch; those of a sharded module
    exchange weights and gradients in every pass. A process that has too few micro-batches takes part all the same, with
    a gradient of exactly 0: the others would wait for it for ever.
    """
    passes = max(1, len(parts))
    if isinstance(module, Sharded):
        module.let_go_of_whole()
        passes = max(gather([passes], accelerator))
    for i, part in enumerate(parts):
        with sync_only_last(accelerator, module, last=i == len(parts) - 1):
            yield part
    for _ in range(len(parts), passes):
        (rows,) = micro_batches([Group([0], [[0]], loss_mask=[[False]])], token_budget=2)
        outputs = [module(rows.to(accelerator.device)) for _ in range(calls)]
        sums = [(output if isinstance(output, Tensor) else output[0]).sum() for output in outputs]
        accelerator.backward(sum(sums) * 0.0)


@contextmanager
def sync_only_last(accelerator: Accelerator, model: nn.Module, *, last: bool) -> Generator[None]:
    """Gradients are exchanged between processes in the last backward of a step only: processes may hold different
    numbers of micro-batches, and one exchange is cheaper than many."""
    if last:
        yield
    else:
        with accelerator.no_sync(model):
            yield
