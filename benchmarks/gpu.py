"""Proof on a GPU, without a network: uv run python -m benchmarks.gpu --json gpu.json

blocks   every family's `gpu:` block takes three steps with random weights of its model's real size and rows in its data
         set's schema, and stays within the memory that `--plan` states
speed    the parts of a GRPO step, tokens a second, peak memory and share of the matrix rate, at 0.6B and 1.7B, with one
         row for the completions of a prompt and with a row for each (shared_prefix)
learns   the laptop profile on this card, in fp32 and in bf16: held-out accuracy before and after 25 steps of GRPO
resume   a run that is stopped and resumed ends with the weights of one that was not, to the bit, with deterministic
         kernels

Each run has a process of its own, and its own peak of memory. Runs of `blocks` and `speed` end after their last step:
nothing is evaluated or saved, unless `--evaluate`. With `--memory_gb 16` a run gets no more. `--tiny --device cpu`
tries all of it with small models where there is no GPU.
"""

import argparse
import hashlib
import json
import os
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.gpu_work import BLOCKS, SMALL, SMALLER, TINY, UNEVALUATED, make_model, write_rows
from rlhf.models.known_sizes import KNOWN_SIZES

STEPS = 3
PARTS = ("blocks", "speed", "learns", "resume")


@dataclass(frozen=True)
class Bench:
    """Where the benchmark works, and how large."""

    folder: Path
    device: str
    tiny: bool
    blocks: tuple[str, ...] = ()  # names of those to run; () is all
    limit: tuple[str, ...] = ()  # --memory_gb N
    evaluate: bool = False  # whether runs of `blocks` evaluate and save
    runs: dict[tuple[str, ...], Path] = field(default_factory=dict)  # directories of runs that were made already

    def model(self, name: str, *, ends: bool = False) -> Path:
        """The folder of a model with random weights; made when it is first asked for."""
        folder = self.folder / (name.replace("/", "-") + ("-ends" if ends else ""))
        if not folder.exists():
            size = KNOWN_SIZES[name] | (TINY | {"head_dim": 8, "num_key_value_heads": 2} if self.tiny else {})
            in_process(lambda: {"made": str(make_model(folder, size, device=self.device, ends=ends))})
        return folder

    def run(self, module: str, arguments: Sequence[str], *, whole: bool = False, deterministic: bool = False) -> Path:
        """The directory of a run of a trainer. Unless `whole`, it ends after its last step."""
        key = (module, *arguments)
        if key not in self.runs:
            run = Path(tempfile.mkdtemp(dir=self.folder)) / "run"
            arguments = [*arguments, "--output_dir", str(run), "--device", self.device, "--quiet"]
            in_process(lambda: _train(module, arguments, whole=whole, deterministic=deterministic))
            self.runs[key] = run
        return self.runs[key]


def in_process(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `work` returns in a fork of this process, which must not have touched the GPU.

    Raises:
        RuntimeError: it failed; its traceback is on the console.
    """
    read, write = os.pipe()
    process = os.fork()
    if not process:
        code = 1
        try:
            os.write(write, json.dumps(work()).encode())
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    os.close(write)
    with os.fdopen(read) as pipe:
        said = pipe.read()
    if os.waitpid(process, 0)[1]:
        raise RuntimeError("a run failed; its traceback is above")
    return json.loads(said)


class _LastStep(Exception):
    """Ends a run of which the steps alone are wanted."""


def _train(module: str, arguments: list[str], *, whole: bool, deterministic: bool) -> dict[str, Any]:
    import torch

    from rlhf.run.session import Session

    if deterministic:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
        torch.use_deterministic_algorithms(True)
    if not whole:
        steps = Session.steps

        def without_saving(self: Session, done: int, **_state: Any) -> None:
            if done == self.config.max_steps:
                raise _LastStep

        setattr(Session, "steps", lambda self, *_evaluations: steps(self, lambda step: None))  # noqa: B010
        setattr(Session, "end_step", without_saving)  # noqa: B010
    sys.argv = [module, *arguments]
    try:
        code = import_module(module).main()
    except _LastStep:
        code = 0
    if code:
        raise RuntimeError(f"{module} {' '.join(arguments)}: exit code {code}")
    return {}


def records(run: Path, stream: str = "metrics") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / f"{stream}.jsonl").read_text().splitlines()]


# ---------------------------------------------------------------- the parts


def blocks(bench: Bench) -> list[dict[str, Any]]:
    """Three steps of every family's `gpu:` block: memory and seconds of a step."""
    rows = []
    for block in BLOCKS:
        if bench.blocks and block.name not in bench.blocks:
            continue
        arguments = ["--config", block.config, "--profile", "gpu", "--max_steps", str(STEPS)]
        arguments += ["--model_name", str(bench.model(block.model, ends=block.ends)), *block.arguments, *bench.limit]
        if block.teacher:
            arguments += ["--teacher", str(bench.model(block.teacher))]
        if block.data:
            arguments += ["--data.path", str(bench.folder / block.data), "--data.held_out", "20"]
        if block.module.startswith("reward_models"):
            arguments += ["--data.validation", "20"]
        if not bench.evaluate:
            arguments += UNEVALUATED.get(block.module, [])
        if bench.tiny:
            arguments += SMALLER.get(block.module, ["--batch_size", "4"])
            arguments += ["--token_budget", "2048"]
        try:
            planned = in_process(lambda arguments=arguments, block=block: {"gb": planned_gb(block.module, arguments)})[
                "gb"
            ]
            steps = records(bench.run(block.module, arguments, whole=bench.evaluate))
        except RuntimeError as error:
            rows.append({"block": block.name, "model": block.model, "failed": str(error)})
            continue
        peak = max(step["memory/peak_gb"] for step in steps)
        rows.append(
            {
                "block": block.name,
                "model": block.model,
                "seconds": median(_seconds(step) for step in steps[1:]),
                "peak_gb": peak,
                "planned_gb": planned,
            }
        )
        _show(rows[-1])
    return rows


def planned_gb(module: str, arguments: list[str]) -> float:
    """What --plan states for that command."""
    import contextlib
    import io

    said = io.StringIO()
    sys.argv = [module, *arguments, "--plan"]
    with contextlib.redirect_stdout(said):
        import_module(module).main()
    (line,) = (line for line in said.getvalue().splitlines() if line.startswith("at most"))
    return float(line.split()[2])


def speed(bench: Bench) -> list[dict[str, Any]]:
    """The parts of a GRPO step."""
    rate = in_process(lambda: {"tflops": _matrix_rate(bench.device)})["tflops"]
    rows = []
    for name in ("Qwen/Qwen3-1.7B", "Qwen/Qwen3-0.6B"):
        for shared in (True, False):
            arguments = ["--config", "policy_gradients/configs/grpo.yaml", "--profile", "gpu"]
            arguments += ["--max_steps", str(STEPS)]
            arguments += ["--model_name", str(bench.model(name)), "--shared_prefix", str(shared).lower()]
            arguments += SMALL if bench.tiny else []
            steps = records(bench.run("policy_gradients.train", arguments))[1:]
            step = {key: median(one[key] for one in steps) for key in steps[0]}
            seconds = _seconds(step)
            rows.append(
                {
                    "model": name,
                    "shared_prefix": shared,
                    "seconds": seconds,
                    "sampling_s": step["time/sampling_s"],
                    "update_s": step["time/update_s"],
                    "sampled_per_s": step["speed/tokens_per_s"] * seconds / step["time/sampling_s"],
                    "peak_gb": step["memory/peak_gb"],
                    "matrix_tflops": rate,
                }
            )
            _show(rows[-1])
    return rows


def _matrix_rate(device: str) -> float:
    """TFLOP/s of a large bf16 matrix product."""
    import time

    import torch

    size = 8192 if device == "cuda" else 1024
    a, b = torch.randn(2, size, size, device=device).bfloat16()
    for repeat in range(13):
        if repeat == 3:
            _synchronize(device)
            start = time.perf_counter()
        a @ b
    _synchronize(device)
    return 10 * 2 * len(a) ** 3 / (time.perf_counter() - start) / 1e12


def _synchronize(device: str) -> None:
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


def learns(bench: Bench) -> list[dict[str, Any]]:
    """GRPO of the laptop profile on this device."""
    rows = []
    for precision in ("fp32", "bf16"):
        arguments = ["--config", "policy_gradients/configs/grpo.yaml", "--profile", "laptop", "--precision", precision]
        if bench.tiny:
            arguments += ["--max_steps", "2", "--eval_problems", "8"]
        run = bench.run("policy_gradients.train", arguments, whole=True)
        sampled = [record for record in records(run, "eval") if record["metric"] == "accuracy"]
        before, after = sampled[0], sampled[-1]
        steps = records(run)
        rows.append(
            {
                "precision": precision,
                "before": before["value"],
                "after": after["value"],
                "low": after["low"],
                "high": after["high"],
                "seconds": median(_seconds(step) for step in steps[1:]),
                "sampler_gap": steps[-1]["sampler/logp_gap"],
            }
        )
        _show(rows[-1])
    return rows


def resume(bench: Bench) -> list[dict[str, Any]]:
    """Stopped after two of four steps and resumed, against undisturbed."""
    arguments = ["--config", "policy_gradients/configs/grpo.yaml", "--profile", "laptop", "--precision", "bf16"]
    arguments += ["--prompts_per_step", "4", "--save_every", "2", "--eval_problems", "8", "--keep_checkpoints", "4"]
    run = bench.run("policy_gradients.train", [*arguments, "--max_steps", "4"], whole=True, deterministic=True)
    weights = _digest(run)
    shutil.rmtree(run / "checkpoints" / "step_4")
    shutil.rmtree(run / "final")
    again = ["--resume", "--output_dir", str(run), "--quiet"]
    in_process(lambda: _train("policy_gradients.train", again, whole=True, deterministic=True))
    rows = [{"undisturbed": weights[:12], "resumed": _digest(run)[:12], "equal": weights == _digest(run)}]
    _show(rows[-1])
    return rows


def _digest(run: Path) -> str:
    return hashlib.sha256((run / "final" / "model.safetensors").read_bytes()).hexdigest()


def _seconds(step: dict[str, float]) -> float:
    return sum(value for key, value in step.items() if key.startswith("time/"))


# ---------------------------------------------------------------- the command line


def _show(row: dict[str, Any]) -> None:
    cells = (f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items())
    print("  ".join(cells), flush=True)


def _card(device: str) -> dict[str, str]:
    import torch

    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    return {"card": name, "torch": torch.__version__, "transformers": import_module("transformers").__version__}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description="Proof on a GPU, without a network.")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--block", nargs="+", default=(), choices=[block.name for block in BLOCKS], metavar="NAME")
    parser.add_argument("--memory_gb", type=float, help="what a run may take of the GPU's memory")
    parser.add_argument("--evaluate", action="store_true", help="runs of blocks are whole: evaluated and saved")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small models and batches: to try the benchmark itself")
    parser.add_argument("--json", type=Path, help="write all measurements there")
    options = parser.parse_args()
    warm_up()
    result: dict[str, Any] = in_process(lambda: _card(options.device))
    _show(result)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["RLHF_CACHE"] = f"{folder}/cache"
        limit = ("--memory_gb", str(options.memory_gb)) if options.memory_gb else ()
        bench = Bench(Path(folder), options.device, options.tiny, tuple(options.block), limit, options.evaluate)
        write_rows(bench.folder, letters=64 if options.tiny else 1500)
        for part in options.only:
            print(f"# {part}", flush=True)
            try:
                result[part] = {"blocks": blocks, "speed": speed, "learns": learns, "resume": resume}[part](bench)
            except RuntimeError as error:
                result[part] = str(error)
            if options.json:
                options.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0


def warm_up() -> None:
    """Load once what every fork would load for itself, all but torchao: it asks the GPU for its kind when it is loaded,
    after which no fork can use the GPU. transformers passes over what seems not to be there."""
    sys.modules["torchao"] = None  # ty: ignore[invalid-assignment] - for importlib: there is no such module
    for module in {block.module for block in BLOCKS} | {"torch", "transformers", "accelerate", "peft"}:
        import_module(module)
    import_module("rlhf.run.session")
    import_module("transformers.modeling_utils")
    del sys.modules["torchao"]


if __name__ == "__main__":
    sys.exit(main())
