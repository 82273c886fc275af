"""One step of GRPO, ours beside TRL's: uv run --group peers python -m benchmarks.grpo_step

The work, the same on both sides: sample G completions of each of B prompts at temperature 1 (no top-k, no top-p), judge
them, z-score the rewards within each group, one forward and backward of the clipped loss (mean over tokens, then over
sequences), clip the gradient norm at 1, one step of fused AdamW. No reference model (beta 0). On the CPU.

What makes it a fair race:
- Each side has a process of its own, so memory is its own, and they take turns step by step, so that a change in what
  else the machine does falls on both. The first step of each warms up and does not count.
- Both train the same model object from `load_policy` (fp32 weights, SDPA attention), on the same chats, and
  every completion has the same length on both sides. `--lengths natural` (default) draws lengths up to max_new_tokens,
  mean near half of that; the end token is suppressed before that length and forced at it: in TRL by a LogitsProcessor,
  in ours by a wrapper of the sampler's chooser (the prompts' order may give a group's lengths to another group; the
  total is the same). `--lengths fixed` suppresses it throughout. What was sampled and read is counted and compared, and
  a difference is an error.
- TRL gets the fp32 matmul kernels and the allocator that we choose (rlhf/cpu.py), though by itself it does not:
  `--trl_cpu default` measures it as it comes.
- Rewards come from the same verifier, plus a number in [0, 1) from a hash of the text: an untrained model is always
  wrong, and advantages of 0 would make the backward pass run on zeros.
- What other programs used of the processor during a step is measured and printed: on a shared machine a step is many
  times slower while they run, since the threads of a matrix product wait for each other. With `--patience MINUTES`,
  each step waits until nobody else is busy, and a round of steps that was disturbed all the same is made again.
- Each side computes its usual metrics; nothing is logged, saved or evaluated.

TRL's settings, where they are not its defaults: gradient_checkpointing off (it is on by default and costs a second
forward pass), one micro-batch of all B * G completions (`--trl_micro_batch` tries others), beta 0 and loss_type `grpo`,
no reports, no saves, no progress bar. In bf16, `bf16=True`: autocast over fp32 weights, as ours. vLLM would need a GPU.
TRL's own choices are left as they are: on a CPU it projects the prompt's positions to the vocabulary too, and it does
so in bf16 under autocast, where ours always does it in fp32.

generation: the call that turns prompts into completions. train: forward, loss, metrics and backward. rest: all else
between two steps (data, judging, advantages, clipping, AdamW). Numbers are medians over the rounds, with the range; a
quotient is taken within each round, whose two steps do the same work.

Fractions of the roofline count the least that must be computed, the same for both sides: 2 FLOP (generation) or 6
(train) for each parameter and token; a prompt once for its whole group, and the vocabulary projection for completion
tokens alone. Attention is left out (about 3 % at these lengths).
"""

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import time
import zlib
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial, wraps
from itertools import cycle
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

from benchmarks.roofline import Roofline, measure

SIDES = ("ours", "trl")
TASK = "spell_backward"
LR = 1e-6
MAX_GRAD_NORM = 1.0
CLIP = 0.2
QUIET = 0.15  # cores that others may use in an undisturbed step
INSTRUCTIONS = (
    "Read the question with care before you answer. Work through it one letter at a time, check the result against the "
    "question, and do not add remarks that nobody asked for. Give the answer at the end."
)


@dataclass(frozen=True)
class Options:
    model: str
    precision: str
    prompts: int
    rollouts: int
    max_new_tokens: int
    prompt_tokens: int
    lengths: str
    steps: int
    trl_micro_batch: int
    trl_cpu: str
    seed: int
    patience: float

    @property
    def rounds(self) -> int:
        """The most that may be made: one to warm up, those that count, and as many again that may be disturbed."""
        return 1 + self.steps * (3 if self.patience else 1)


@dataclass(frozen=True)
class Step:
    """What one step took and did."""

    seconds: float
    others: float  # cores that other programs kept busy
    generation: float
    train: float
    prompt_tokens: int  # each prompt once
    completion_tokens: int
    longest: int  # token steps of decoding
    memory_gb: float  # peak so far, loading the model left out

    @property
    def rest(self) -> float:
        return self.seconds - self.generation - self.train


# ---------------------------------------------------------------- the same work for both sides


def load(name: str, *, seed: int):
    import torch
    from transformers.utils import logging

    from rlhf.models.policy import load_policy, load_tokenizer

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.manual_seed(seed)
    return load_policy(name), load_tokenizer(name)


def make_problems(tokenizer, options: Options) -> list:
    """B problems for each step, the question followed by instructions until the prompt has the length asked for."""
    from dataclasses import replace

    from rlhf.evaluation import messages_for
    from rlhf.tasks.procedural import ProceduralTask
    from rlhf.text.chat import encode_prompt

    def lengthened(problem):
        words = cycle(INSTRUCTIONS.split())
        while len(encode_prompt(tokenizer, messages_for(problem, None))) < options.prompt_tokens:
            problem = replace(problem, question=f"{problem.question} {next(words)}")
        return problem

    count = options.prompts * options.rounds
    return [
        lengthened(problem) for problem in ProceduralTask(TASK).train_problems(seed=options.seed, first=0, count=count)
    ]


def jitter(text: str) -> float:
    """In [0, 1), from the text alone."""
    return zlib.crc32(text.encode()) / 2**32


def wanted_lengths(options: Options) -> Iterator:
    """For each step, how long each completion is to be; longer than max_new_tokens means no end token."""
    import torch

    generator, n = torch.Generator().manual_seed(options.seed), options.prompts * options.rollouts
    most = options.max_new_tokens
    while True:
        if options.lengths == "fixed":
            yield torch.full((n,), most + 1)
        else:  # the sum of two uniform numbers: 32.5 of 64 on average, seldom very short or very long
            yield (torch.rand(2, n, generator=generator).mean(0) * most).ceil().clamp(1, most).long()


class Meter:
    """Times the parts of a step and counts its tokens."""

    def __init__(self):
        self.clear()

    def clear(self) -> None:
        self.start, self.start_others = time.perf_counter(), cpu_of_others()
        self.seconds: dict[str, float] = {}
        self.prompts: Sequence[Sequence[int]] = []
        self.completions: Sequence[Sequence[int]] = []

    @contextmanager
    def __call__(self, part: str) -> Generator[None]:
        start = time.perf_counter()
        yield
        self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - start

    def around(self, part: str, function: Callable) -> Callable:
        @wraps(function)
        def timed(*args, **kwargs):
            with self(part):
                return function(*args, **kwargs)

        return timed

    def step(self, *, generation: float, train: float) -> Step:
        lengths = [len(tokens) for tokens in self.completions]
        return Step(
            seconds=(seconds := time.perf_counter() - self.start),
            others=max(0.0, cpu_of_others() - self.start_others) / seconds,
            generation=generation,
            train=train,
            prompt_tokens=sum(map(len, self.prompts)),
            completion_tokens=sum(lengths),
            longest=max(lengths),
            memory_gb=peak_memory_gb(),
        )


def cpu_of_others() -> float:
    """Seconds of processor time that all but this process have used. Linux only; elsewhere 0."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0.0
    user, nice, system, _idle, _wait, irq, softirq, steal, *_ = map(int, stat.read_text().split("\n")[0].split()[1:])
    busy = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
    return busy - time.process_time()


def forget_peak_memory() -> None:
    """Loading is not what is measured. Linux only; elsewhere the peak includes it."""
    clear = Path("/proc/self/clear_refs")
    if clear.exists():
        clear.write_text("5")


def peak_memory_gb() -> float:
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e9
    import torch

    from rlhf.run.stopwatch import peak_memory_gb as peak

    return peak(torch.device("cpu"))


def describe(model) -> dict[str, int]:
    head = model.get_output_embeddings().weight
    backbone = sum(p.numel() for p in model.base_model.parameters())
    return {"backbone": backbone - head.numel() * int(model.config.tie_word_embeddings), "head": head.numel()}


# ---------------------------------------------------------------- ours


def lengthened_task(problems: list):
    """The task with these problems for its training stream."""
    from rlhf.tasks.procedural import ProceduralTask

    task = ProceduralTask(TASK, answer_in="text")
    task.train_problems = lambda *, seed, first, count: problems[first : first + count]
    return task


class ForcedChooser:
    """Our sampler's chooser, told where completions end. Tokens that end one too early become another token."""

    def __init__(self, *settings, chooser: Callable, ends: list[int], lengths: Iterator):
        import torch

        self.choose, self.lengths, self.step = chooser(*settings), next(lengths), 0
        self.rows = torch.arange(len(self.lengths))  # the completion in each row of the batch
        self.ends, self.end = torch.tensor(ends), ends[0]
        self.instead = next(token for token in range(len(ends) + 1) if token not in ends)

    def __call__(self, state, head, uniform):
        import torch

        if len(state) < len(self.rows):  # the sampler has dropped the rows that are done
            self.rows = self.rows[self.lengths[self.rows] > self.step]
        self.step += 1
        token, logp = self.choose(state, head, uniform)
        token = token.masked_fill(torch.isin(token, self.ends), self.instead)
        return token.masked_fill(self.lengths[self.rows] == self.step, self.end), logp


def run_ours(turn: Connection, options: Options) -> None:
    """The loop of policy_gradients/train.py, less logging and saving."""
    from accelerate.utils import set_seed

    from policy_gradients import rollout
    from policy_gradients.algorithms import algorithms
    from policy_gradients.config import PolicyGradientConfig, RewardWeights
    from policy_gradients.defaults import resolve
    from policy_gradients.diagnostics import UpdateSums, batch_metrics
    from policy_gradients.rewards import Judge
    from rlhf import sampling
    from rlhf.aggregate import Totals
    from rlhf.distributed import make_accelerator
    from rlhf.groups import micro_batches
    from rlhf.logprobs import Scorer
    from rlhf.optimizer import check_finite, gradients_flow, make_optimizer, optimizer_step
    from rlhf.text.chat import end_tokens

    b, g, meter = options.prompts, options.rollouts, Meter()
    algorithm, clip = algorithms["grpo"], {"clip_low": CLIP, "clip_high": CLIP}
    config, _ = resolve(
        PolicyGradientConfig(
            task=TASK,
            answer_in="text",
            prompts_per_step=b,
            group_size=g,
            max_new_tokens=options.max_new_tokens,
            sampling_batch=b * g,
        )
    )
    model, tokenizer = load(options.model, seed=options.seed)
    task = lengthened_task(make_problems(tokenizer, options))
    accelerator = make_accelerator(device="cpu", precision=options.precision, trackers=[], run_path=Path())
    set_seed(options.seed)
    optimizer = make_optimizer(model, lr=LR, betas=(0.9, 0.999), weight_decay=0.0)
    scorer, optimizer = accelerator.prepare(Scorer(model), optimizer)
    judge = Judge(task, RewardWeights(), {})
    sampler = rollout.Sampler(model, tokenizer, task, judge, accelerator, config)

    def one_step(number: int) -> Step:
        meter.clear()
        rollouts, _ = sampler.draw(number * b)
        batch = sampler.batch(rollouts)
        batch_metrics(batch, accelerator)
        reward = batch.reward + batch.reward.new_tensor([[jitter(text) for text in it.texts] for it in rollouts])
        adv = algorithm.advantage(reward).reshape(-1, 1)
        sums = UpdateSums()
        assert algorithm.ratio is not None
        with meter("train"):
            totals = Totals(b * g, int(batch.mask.sum()), options.max_new_tokens)
            batches = micro_batches(batch.groups, token_budget=config.token_budget)
            for i, rows in enumerate(batches):
                n, t = rows.sequence, rows.mask.shape[1]
                with gradients_flow(accelerator, scorer, last=i == len(batches) - 1):
                    scores = scorer(rows, 1.0)
                    ratio = algorithm.ratio(scores.logp, scores.logp.detach(), scores.mask)
                    loss = algorithm.surrogate(scores.logp, ratio, adv[n], **clip)
                    loss = algorithm.aggregate(loss, scores.mask, totals)
                    check_finite(loss, Path("/tmp"), rows=rows)
                    accelerator.backward(loss)
                logp_sampler = batch.logp_sampler[n, :t]
                sums.add(scores, gap=scores.logp.detach() - logp_sampler, ratio=ratio, adv=adv[n], kl=None)
        optimizer_step(accelerator, model, optimizer, lr=LR, max_grad_norm=MAX_GRAD_NORM)
        meter.prompts = [group.prompt for group in batch.groups]
        meter.completions = [tokens for group in batch.groups for tokens in group.completions]
        return meter.step(generation=meter.seconds["generation"], train=meter.seconds["train"])

    forced = partial(
        ForcedChooser, chooser=sampling.SoftmaxChooser, ends=end_tokens(tokenizer), lengths=wanted_lengths(options)
    )
    timed = meter.around("generation", rollout.sample)
    sampling.shares_prompts(model)  # found out once for each model, by trying, with the chooser as it is
    with patch.object(sampling, "SoftmaxChooser", forced), patch.object(rollout, "sample", timed):
        forget_peak_memory()
        turn.send(describe(model))
        while (number := turn.recv()) is not None:
            turn.send(one_step(number))


# ---------------------------------------------------------------- TRL


def run_trl(turn: Connection, options: Options) -> None:
    import torch
    from datasets import Dataset
    from transformers import LogitsProcessor, LogitsProcessorList, PrinterCallback, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    from rlhf.cpu import tune_cpu
    from rlhf.evaluation import messages_for
    from rlhf.tasks.procedural import ProceduralTask
    from rlhf.text.chat import end_tokens

    if options.trl_cpu == "ours":
        tune_cpu()
    b, g, meter = options.prompts, options.rollouts, Meter()
    model, tokenizer = load(options.model, seed=options.seed)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    task, problems, ends = (
        ProceduralTask(TASK, answer_in="text"),
        make_problems(tokenizer, options),
        end_tokens(tokenizer),
    )

    class ForcedEnds(LogitsProcessor):
        def __init__(self, lengths):
            self.lengths, self.step = lengths, 0

        def __call__(self, input_ids, scores):
            self.step += 1
            scores[:, ends] = -torch.inf
            due = self.lengths == self.step
            scores[due] = -torch.inf
            scores[due, ends[0]] = 0.0
            return scores

    lengths, generate = wanted_lengths(options), model.generate
    model.generate = lambda **inputs: generate(
        **inputs, logits_processor=LogitsProcessorList([ForcedEnds(next(lengths))])
    )

    def reward(completions, number, **_columns) -> list[float | None]:
        texts = [completion[0]["content"] for completion in completions]
        return [task.verify(problems[i], text).exact + jitter(text) for i, text in zip(number, texts, strict=True)]

    class TakeTurns(TrainerCallback):
        def on_train_begin(self, args, state, control, **_):
            forget_peak_memory()
            turn.send(describe(model))
            self.wait(control)

        def on_step_end(self, args, state, control, **_):
            train = meter.seconds["training_step"] - meter.seconds["inputs"]
            turn.send(meter.step(generation=meter.seconds["generation"], train=train))
            self.wait(control)

        def wait(self, control) -> None:
            if turn.recv() is None:
                control.should_training_stop = True
            meter.clear()

    micro_batch = options.trl_micro_batch or b * g
    with TemporaryDirectory() as folder:
        trainer = GRPOTrainer(
            model=model,
            processing_class=tokenizer,
            reward_funcs=reward,
            train_dataset=Dataset.from_list(
                [{"prompt": messages_for(problem, None), "number": i} for i, problem in enumerate(problems)]
            ),
            callbacks=[TakeTurns()],
            args=GRPOConfig(
                output_dir=folder,
                use_cpu=True,
                bf16=options.precision == "bf16",
                seed=options.seed,
                max_steps=options.rounds,
                shuffle_dataset=False,
                # the same mathematics
                num_generations=g,
                max_completion_length=options.max_new_tokens,
                temperature=1.0,
                top_p=1.0,
                top_k=0,
                beta=0.0,
                epsilon=CLIP,
                loss_type="grpo",
                scale_rewards="group",
                learning_rate=LR,
                lr_scheduler_type="constant",
                weight_decay=0.0,
                max_grad_norm=MAX_GRAD_NORM,
                optim="adamw_torch_fused",
                # for speed
                per_device_train_batch_size=micro_batch,
                gradient_accumulation_steps=b * g // micro_batch,
                gradient_checkpointing=False,
                report_to="none",
                logging_strategy="no",
                save_strategy="no",
                disable_tqdm=True,
            ),
        )
        trainer.remove_callback(PrinterCallback)
        generate_turn = trainer._generate_single_turn

        def counted(prompt_ids, *args, **kwargs):
            with meter("generation"):
                completion_ids, logp = generate_turn(prompt_ids, *args, **kwargs)
            meter.prompts, meter.completions = prompt_ids[::g], completion_ids
            return completion_ids, logp

        trainer._generate_single_turn = counted
        trainer._prepare_inputs = meter.around("inputs", trainer._prepare_inputs)
        trainer.training_step = meter.around("training_step", trainer.training_step)
        trainer.train()


# ---------------------------------------------------------------- the race


def run_roofline(turn: Connection) -> None:
    turn.send(measure())


class Side:
    """A process that makes a step when told to."""

    def __init__(self, target: Callable, *args):
        context = multiprocessing.get_context("spawn")
        self.turn, theirs = context.Pipe()
        self.process = context.Process(target=target, args=(theirs, *args), daemon=True)
        self.process.start()
        theirs.close()

    def receive(self) -> Any:
        try:
            return self.turn.recv()
        except EOFError:
            self.process.join()
            sys.exit(f"{self.process.name} failed with exit code {self.process.exitcode}; its traceback is above")

    def step(self, number: int) -> Step:
        self.turn.send(number)
        return self.receive()

    def end(self) -> None:
        self.turn.send(None)
        self.process.join()


def race(options: Options, sides: Sequence[str]) -> dict[str, Any]:
    """Run it all; what comes back is what `--json` writes."""
    deadline = time.monotonic() + 60 * options.patience
    wait_until_quiet(deadline)
    measuring = Side(run_roofline)
    roofline = measuring.receive()
    measuring.process.join()
    runners: dict[str, Side] = {}
    parameters: dict[str, int] = {}
    for name in sides:  # one after the other: loading at once would only share the cores
        runners[name] = Side({"ours": run_ours, "trl": run_trl}[name], options)
        parameters = runners[name].receive()
    rounds: list[dict[str, Step]] = []
    for number in range(options.rounds):
        made = {}
        for name in sides:
            wait_until_quiet(deadline)
            made[name] = runners[name].step(number)
            said = f"{made[name].seconds:.2f} s, others used {made[name].others:.2f} cores"
            print(f"step {number}{'' if number else ' (warm-up)'} {name}: {said}", file=sys.stderr)
        counts = {(step.prompt_tokens, step.completion_tokens, step.longest) for step in made.values()}
        if len(counts) > 1:
            sys.exit(f"the sides did different work (prompt tokens, completion tokens, longest): {counts}")
        undisturbed = all(step.others < QUIET for step in made.values())
        if number and (undisturbed or not options.patience):
            rounds.append(made)
        if len(rounds) == options.steps or (rounds and options.patience and time.monotonic() > deadline):
            break
    if not rounds:
        sys.exit("every round was disturbed by other programs: more --patience, or none to measure all the same")
    for runner in runners.values():
        runner.end()
    measured = {
        name: [measurements(made[name], parameters, roofline, options.precision) for made in rounds] for name in sides
    }
    return {
        "options": asdict(options),
        "roofline": asdict(roofline),
        "parameters": parameters,
        "results": {
            name: {key: spread([row[key] for row in rows]) for key in rows[0]} for name, rows in measured.items()
        },
        # Of the two steps of a round, which did the same work.
        "theirs / ours": {
            key: spread([theirs[key] / ours[key] for ours, theirs in zip(*measured.values(), strict=True)])
            for key in ("seconds", "generation", "train", "rest", "memory_gb")
            if len(sides) == 2
        },
        "rounds": measured,
    }


def wait_until_quiet(deadline: float, seconds: float = 2.0) -> None:
    while time.monotonic() < deadline:
        before = cpu_of_others()
        time.sleep(seconds)
        if (cpu_of_others() - before) / seconds < QUIET:
            return


def measurements(step: Step, parameters: dict[str, int], roofline: Roofline, precision: str) -> dict[str, float]:
    rate = {"fp32": roofline.fp32, "bf16": roofline.bf16}[precision] * 1e9
    weight_bytes = sum(parameters.values()) * {"fp32": 4, "bf16": 2}[precision]
    tokens = step.prompt_tokens + step.completion_tokens
    forward = 2.0 * (parameters["backbone"] * tokens + parameters["head"] * step.completion_tokens)
    return {
        **asdict(step),
        "rest": step.rest,
        "tokens_per_s": step.completion_tokens / step.seconds,
        "generated_per_s": step.completion_tokens / step.generation,
        "step_of_matmul": 4 * forward / step.seconds / rate,
        "generation_of_matmul": forward / step.generation / rate,
        "train_of_matmul": 3 * forward / step.train / rate,
        # Every weight is read once for each token step of decoding.
        "generation_of_read": step.longest * weight_bytes / (roofline.read * 1e9) / step.generation,
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def show(record: dict[str, Any]) -> None:
    options, roofline, results = record["options"], record["roofline"], record["results"]
    parameters = sum(record["parameters"].values()) / 1e6
    first = next(iter(results.values()))
    print(
        f"\nGRPO step, {options['model']} ({parameters:.1f}M), {options['precision']}: {options['prompts']} prompts of "
        f"{first['prompt_tokens']['median'] / options['prompts']:.0f} tokens x {options['rollouts']} completions, "
        f"{first['completion_tokens']['median']:.0f} tokens in all, lengths {options['lengths']}, "
        f"{len(next(iter(record['rounds'].values())))} timed rounds"
    )
    print(
        f"machine: {roofline['threads']} threads, fp32 {roofline['fp32']:.0f} GFLOP/s, bf16 {roofline['bf16']:.0f} "
        f"GFLOP/s, read {roofline['read']:.1f} GB/s\n"
    )
    quotients = record["theirs / ours"]
    print(f"{'':30}" + "".join(f"{name:>24}" for name in results) + (f"{'theirs / ours':>24}" if quotients else ""))

    def line(label: str, key: str, form: str) -> None:
        values = [(result[key], form, "") for result in results.values()]
        if key in quotients:
            values.append((quotients[key], ".2f", "x"))
        cells = [f"{v['median']:{f}}{unit} [{v['min']:{f}}, {v['max']:{f}}]" for v, f, unit in values]
        print(f"{label:30}" + "".join(f"{cell:>24}" for cell in cells))

    line("step, s", "seconds", ".2f")
    line("  generation, s", "generation", ".2f")
    line("  scoring + backward, s", "train", ".2f")
    line("  rest, s", "rest", ".2f")
    line("cores used by others", "others", ".2f")
    line("completion tokens / s", "tokens_per_s", ".1f")
    line("  in generation alone", "generated_per_s", ".1f")
    line("peak memory, GB", "memory_gb", ".2f")
    line("of the matmul rate: step", "step_of_matmul", ".1%")
    line("  generation", "generation_of_matmul", ".1%")
    line("  scoring + backward", "train_of_matmul", ".1%")
    line("of the read rate: generation", "generation_of_read", ".1%")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.grpo_step", description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("--model", default="smollm2-135m", help="a model name of rlhf.models.policy, or a folder")
    add("--precision", choices=("fp32", "bf16"), default="fp32")
    add("--prompts", type=int, default=4)
    add("--rollouts", type=int, default=8, help="completions of each prompt")
    add("--max_new_tokens", type=int, default=64)
    add("--prompt_tokens", type=int, default=110)
    add("--lengths", choices=("natural", "fixed"), default="natural", help="up to max_new_tokens, or all that long")
    add("--steps", type=int, default=3, help="timed steps, after one that warms up")
    add("--trl_micro_batch", type=int, default=0, help="per_device_train_batch_size of TRL; 0 is prompts * rollouts")
    add("--trl_cpu", choices=("ours", "default"), default="ours", help="fp32 kernels and allocator that TRL runs with")
    add("--seed", type=int, default=0)
    add("--only", choices=SIDES)
    add("--patience", type=float, default=0.0, help="minutes to wait for other programs to leave the machine alone")
    add("--json", type=Path, help="write all measurements there")
    arguments = vars(parser.parse_args())
    only, path = arguments.pop("only"), arguments.pop("json")
    record = race(Options(**arguments), [only] if only else SIDES)
    show(record)
    if path:
        path.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
