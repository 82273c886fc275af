"""TRL's side of the race of GRPO steps."""

from multiprocessing.connection import Connection
from tempfile import TemporaryDirectory

from torch import Tensor

from benchmarks.grpo_work import (
    CLIP,
    LR,
    MAX_GRAD_NORM,
    TASK,
    Meter,
    Options,
    describe,
    jitter,
    make_problems,
    wanted_lengths,
)
from benchmarks.race import forget_peak_memory, load_for_trl


def forced_ends(ends: list[int], lengths: Tensor):
    """The logits processor that ends each completion at its length, and no earlier."""
    import torch
    from transformers import LogitsProcessor, LogitsProcessorList

    class ForcedEnds(LogitsProcessor):
        step = 0

        def __call__(self, input_ids, scores):
            self.step += 1
            scores[:, ends] = -torch.inf
            due = lengths == self.step
            scores[due] = -torch.inf
            scores[due, ends[0]] = 0.0
            return scores

    return LogitsProcessorList([ForcedEnds()])


def settings(options: Options, folder: str):
    """TRL's configuration of the same work."""
    from trl import GRPOConfig

    completions = options.prompts * options.rollouts
    micro_batch = options.trl_micro_batch or completions

    return GRPOConfig(
        output_dir=folder,
        use_cpu=True,
        bf16=options.precision == "bf16",
        seed=options.seed,
        max_steps=options.rounds,
        shuffle_dataset=False,
        # the same mathematics
        num_generations=options.rollouts,
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
        gradient_accumulation_steps=completions // micro_batch,
        gradient_checkpointing=False,
        report_to="none",
        logging_strategy="no",
        save_strategy="no",
        disable_tqdm=True,
    )


def run_trl(turn: Connection, options: Options) -> None:
    from datasets import Dataset
    from transformers import PrinterCallback, TrainerCallback
    from trl import GRPOTrainer

    from rlhf.tasks.problem import messages_for
    from rlhf.tasks.procedural import ProceduralTask
    from rlhf.text.chat import end_tokens

    g = options.rollouts
    meter = Meter()
    model, tokenizer = load_for_trl(options.model, seed=options.seed, cpu=options.trl_cpu)
    task = ProceduralTask(TASK, answer_in="text")
    problems = make_problems(tokenizer, options)
    ends = end_tokens(tokenizer)

    lengths = wanted_lengths(options)
    generate = model.generate
    model.generate = lambda **inputs: generate(**inputs, logits_processor=forced_ends(ends, next(lengths)))

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

    with TemporaryDirectory() as folder:
        trainer = GRPOTrainer(
            model=model,
            processing_class=tokenizer,
            reward_funcs=reward,
            train_dataset=Dataset.from_list(
                [{"prompt": messages_for(problem, None), "number": i} for i, problem in enumerate(problems)]
            ),
            callbacks=[TakeTurns()],
            args=settings(options, folder),
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
