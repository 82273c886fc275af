"""Pieces that every training loop is made of: small functions, not a loop."""

import math
import os
import signal
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import torch
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker
from accelerate.utils import LoggerType, gather_object
from torch import Tensor, nn

from rlhf.cpu import tune_cpu
from rlhf.errors import UserError


def make_accelerator(*, device: str, precision: str, trackers: Sequence[str], run_path: Path) -> Accelerator:
    """Devices, processes and autocast. One process, or as many as `accelerate launch` started."""
    return Accelerator(
        cpu=open_device(device).type == "cpu",
        mixed_precision={"bf16": "bf16", "fp32": "no"}[precision],
        log_with=list[str | LoggerType | GeneralTracker](trackers) or None,
        project_dir=str(run_path),
    )


def device_of(wanted: str) -> torch.device:
    """What `make_accelerator` will choose. `auto` is CUDA or CPU: small models are slower on MPS than on the CPU."""
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(wanted)


def open_device(wanted: str) -> torch.device:
    """`device_of`, ready to compute."""
    device = device_of(wanted)
    if device.type == "cpu":
        tune_cpu()
    return device


def make_optimizer(
    model: nn.Module,
    *,
    lr: float,
    betas: tuple[float, float],
    weight_decay: float,
    new: Sequence[nn.Parameter] = (),
    new_factor: float = 1.0,
):
    """AdamW; matrices decay, norms and biases do not. `new` weights learn at `new_factor` times the learning rate."""
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
    fused = all(p.device.type in ("cpu", "cuda") for p in trained)
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=lr, betas=betas, eps=1e-8, fused=fused)


def learning_rate(step: int, *, peak: float, warmup_steps: int, max_steps: int, schedule: str) -> float:
    """Of optimizer step `step`, counted from 0. A function of the step alone, so there is no schedule to save.

    Linear warm-up to `peak`, then `constant`, or `linear` / `cosine` decay to 0 (reached one step after the last).
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(1, max_steps - warmup_steps)
    factor = {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}[schedule]
    return peak * max(0.0, factor)


def optimizer_step(accelerator: Accelerator, model: nn.Module, optimizer, *, lr: float, max_grad_norm: float) -> float:
    """Clip, step, clear. Returns the norm of the gradient before clipping; refuses one that is not finite."""
    norm = float(accelerator.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], max_grad_norm))
    if not math.isfinite(norm):
        raise NotFiniteError(f"the gradient norm is {norm}")
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("factor", 1.0)  # see make_optimizer
    optimizer.step()
    optimizer.zero_grad()
    return norm


class NotFiniteError(UserError):
    """A loss or gradient that is inf or nan. The run stops: skipping the step would hide that it is dead."""

    def __init__(self, what: str):
        super().__init__(
            f"{what}: the run stops here",
            hint="The batch is saved in the run directory as not_finite.pt. A lower lr, a smaller max_grad_norm or "
            "precision fp32 are the first things to try; --resume continues from the last checkpoint.",
        )


def check_finite(loss: Tensor, run_path: Path, **batch) -> None:
    """Raise, with the batch saved, if the loss is inf or nan."""
    if not torch.isfinite(loss).all():
        torch.save({"loss": loss.detach().cpu(), **batch}, run_path / "not_finite.pt")
        raise NotFiniteError(f"the loss is {float(loss.detach().sum())}")


@contextmanager
def gradients_flow(accelerator: Accelerator, model: nn.Module, *, last: bool) -> Generator[None]:
    """Gradients are exchanged between processes in the last backward of a step only: processes may hold different
    numbers of micro-batches, and one exchange is cheaper than many."""
    if last:
        yield
    else:
        with accelerator.no_sync(model):
            yield


def share(items: list, accelerator: Accelerator) -> list:
    """This process's part of a list that is the same in every process."""
    return items[accelerator.process_index :: accelerator.num_processes]


def gather(items: list, accelerator: Accelerator) -> list:
    """The parts of all processes, in the order of the list that `share` took them from."""
    if accelerator.num_processes == 1:
        return items
    flat = gather_object([(accelerator.process_index + i * accelerator.num_processes, x) for i, x in enumerate(items)])
    return [item for _, item in sorted(flat, key=lambda pair: pair[0])]


def total(numbers: list[float], accelerator: Accelerator) -> list[float]:
    """Each number summed over all processes."""
    if accelerator.num_processes == 1:
        return numbers
    return accelerator.reduce(torch.tensor(numbers, dtype=torch.float64, device=accelerator.device), "sum").tolist()


class Stopwatch:
    """Seconds spent in each named part of a step."""

    def __init__(self):
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, part: str) -> Generator[None]:
        start = time.perf_counter()
        yield
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - start


def peak_memory_gb(device: torch.device) -> float:
    """Peak of the CUDA allocator, or of this process's resident memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    import resource
    import sys

    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux kilobytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


class Interrupted:
    """SIGINT and SIGTERM asked for an end: the loop looks at it between steps, saves and leaves. A second one kills."""

    def __init__(self):
        self.signal: int | None = None
        self._before = {n: signal.signal(n, self._receive) for n in (signal.SIGINT, signal.SIGTERM)}

    def stop_listening(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if self.signal is not None:
            os._exit(128 + number)
        self.signal = number

    def __bool__(self) -> bool:
        return self.signal is not None

    @property
    def exit_code(self) -> int:
        return 128 + (self.signal or 0)
