"""Devices and processes: opening them, dividing work between them, gathering and summing results."""

import os
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker
from accelerate.utils import LoggerType, broadcast_object_list, gather_object
from torch import Tensor

from rlhf.cpu.tune import tune_cpu
from rlhf.errors import UserError

# How many processes a launcher says that there are, and which of them this is: MPI's variables, then torchrun's.
SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE", "WORLD_SIZE")
RANKS = ("PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK", "RANK")


def make_accelerator(*, device: str, precision: str, trackers: Sequence[str], run_path: Path) -> Accelerator:
    """Devices, processes and autocast: exactly those asked for.

    Raises:
        UserError: the launcher was asked for several processes and this one knows of no other; or the device is not
            there.
    """
    asked, opened = processes_asked(), open_device(device)
    accelerator = Accelerator(
        cpu=opened.type == "cpu",
        mixed_precision={"bf16": "bf16", "fp32": "no"}[precision],
        log_with=list[str | LoggerType | GeneralTracker](trackers) or None,
        project_dir=str(run_path),
    )
    if accelerator.device.type != opened.type:
        raise UserError(f"device: {opened.type} was wanted, but accelerate chose {accelerator.device.type}")
    if accelerator.num_processes != asked:
        raise UserError(
            f"processes: the launcher started {asked}, but on {opened.type} each would train by itself",
            hint="Start one, or use --device cpu or cuda.",
        )
    return accelerator


def processes_asked() -> int:
    """How many processes the launcher started, by the variables that it set; 1 where there was no launcher.

    Raises:
        UserError: several were asked for, but this process cannot find the others; or the launcher is to shard.
    """
    said = os.environ.get
    if said("ACCELERATE_USE_FSDP", "false").lower() == "true":
        raise UserError(
            "processes: accelerate launch was given an FSDP config, which runs do not read",
            hint="Launch with distributed_type MULTI_GPU, as launch/one_node.yaml does, and the run with --fsdp true.",
        )
    size = next((_count(name) for name in SIZES if said(name)), None)
    # For several processes on a CPU, accelerate's launcher sets an address to meet at, then starts one, with no number.
    if size is None and said("ACCELERATE_MIXED_PRECISION") and said("MASTER_ADDR"):
        raise UserError(
            "processes: accelerate launch was asked for several, but on a CPU it starts one",
            hint=f"Start them with torchrun: {command_for_several()}",
        )
    if size is not None and size > 1 and not any(said(name) for name in RANKS):
        raise UserError(
            f"processes: WORLD_SIZE is {size}, but no RANK says which of them this is",
            hint=f"Start them with torchrun, or unset WORLD_SIZE: {command_for_several()}",
        )
    return size or 1


def is_first_asked() -> bool:
    """Whether this is the first of the processes that the launcher started, or there is no launcher."""
    return next((os.environ[name] for name in RANKS if os.environ.get(name)), "0") == "0"


def _count(name: str) -> int:
    text = os.environ[name]
    if not text.isdecimal() or not int(text):
        raise UserError(
            f"processes: the variable {name} is {text!r}, wanted a number >= 1",
            hint=f"Unset it, or start several with torchrun: {command_for_several()}",
        )
    return int(text)


def command_for_several() -> str:
    """This command, for several processes."""
    command = " ".join(sys.orig_argv[1:] or ["-m", "policy_gradients.train"])
    return f"uv run torchrun --standalone --nproc_per_node N {command}"


def device_of(wanted: str) -> torch.device:
    """The device that was asked for. `auto` alone falls back: CUDA, else CPU (MPS is slower for small models).

    Raises:
        UserError: it is not there.
    """
    cpu_launcher = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes", "on", "y", "t")
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() and not cpu_launcher else "cpu")
    device = torch.device(wanted)
    if device.type != "cpu" and cpu_launcher:
        raise UserError(f"device: {wanted} was asked for, and the CPU of the launcher (ACCELERATE_USE_CPU)")
    there = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available}
    if device.type in there and not there[device.type]():
        raise UserError(
            f"device: there is no {wanted} device here", hint="--device auto takes CUDA where it is, and else the CPU."
        )
    count = torch.cuda.device_count() if device.type == "cuda" else 1
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if device.type == "cuda" and max(device.index or 0, local) >= count:
        raise UserError(
            f"device: {wanted} for process {local} of this machine is not there: {count} CUDA devices are",
            hint="Start one process a device.",
        )
    return device


def open_device(wanted: str) -> torch.device:
    """`device_of`, ready to compute."""
    device = device_of(wanted)
    if device.type == "cpu":
        tune_cpu()
    return device


def refuse_uneven(key: str, size: int, accelerator: Accelerator, *, parts: int = 1) -> None:
    """Check that every process gets equally much of each of a step's `parts`, so that none is ever without work.

    Raises:
        UserError: the step cannot be divided so.
    """
    processes = accelerator.num_processes
    if size % (processes * parts):
        several = f" x {parts} optimizer steps" if parts > 1 else ""
        enough = -(-size // (processes * parts)) * processes * parts
        raise UserError(
            f"{key} {size} is not a multiple of {processes} processes{several}",
            hint=f"Every process takes the same share of a step: --{key} {enough}, say, or fewer processes.",
        )


@contextmanager
def led_by_main(accelerator: Accelerator) -> Generator[None]:
    """Wait at the end of this block for the main process; if it fails inside, the other processes end too."""
    failed = [True]
    try:
        yield
        failed = [False]
    finally:
        if accelerator.num_processes > 1:
            broadcast_object_list(failed)
    if failed[0]:
        raise SystemExit(2)  # the main process says why


def local_shard(items: list, accelerator: Accelerator) -> list:
    """This process's part of a list that is the same in every process."""
    return items[accelerator.process_index :: accelerator.num_processes]


def gather(items: list, accelerator: Accelerator) -> list:
    """The items of all processes, in the order of the list that `local_shard` divided."""
    if accelerator.num_processes == 1:
        return items
    flat = gather_object([(accelerator.process_index + i * accelerator.num_processes, x) for i, x in enumerate(items)])
    return [item for _, item in sorted(flat, key=lambda pair: pair[0])]


def local_rows(rows: Tensor, accelerator: Accelerator) -> Tensor:
    """`local_shard` for the rows of a tensor."""
    return rows[accelerator.process_index :: accelerator.num_processes]


def gather_rows(rows: Tensor, accelerator: Accelerator) -> Tensor:
    """`gather` for the rows of a tensor that has as many rows in every process."""
    processes = accelerator.num_processes
    if processes == 1:
        return rows
    by_process = accelerator.gather(rows).view(processes, *rows.shape)
    return by_process.transpose(0, 1).reshape(-1, *rows.shape[1:])


def all_reduce_sum(numbers: list[float], accelerator: Accelerator) -> list[float]:
    """Each number summed over all processes."""
    if accelerator.num_processes == 1:
        return numbers
    return accelerator.reduce(torch.tensor(numbers, dtype=torch.float64, device=accelerator.device), "sum").tolist()
