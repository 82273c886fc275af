"""Our side of the race of DPO epochs."""

from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks.dpo_work import BETA, LR, MAX_GRAD_NORM, Options, Step, make_groups, tokens_of
from benchmarks.race import Clock, forget_peak_memory, load


def run_ours(turn: Connection, options: Options) -> None:
    """The loop of direct_alignment/train.py, less logging and saving."""
    from accelerate.utils import set_seed

    from direct_alignment.data import Example
    from direct_alignment.diagnostics import StepSums
    from direct_alignment.log_ratios import compare, lengths, score_all, sequence_logp
    from direct_alignment.losses import losses
    from rlhf.distributed import make_accelerator
    from rlhf.groups import Layout, whole_micro_batches
    from rlhf.logprobs import Scorer
    from rlhf.optimizer import check_finite, make_optimizer, optimizer_step, sync_only_last

    loss = losses["dpo"]
    settings = {"beta": BETA}
    layout: Layout = {"token_budget": options.token_budget, "shared_prefix": True}
    model, tokenizer = load(options.model, seed=options.seed)
    groups = make_groups(tokenizer, options)
    accelerator = make_accelerator(device="cpu", precision=options.precision, trackers=[], run_path=Path())
    set_seed(options.seed)
    optimizer = make_optimizer(model, lr=LR, betas=(0.9, 0.999), weight_decay=0.0)
    scorer, optimizer = accelerator.prepare(Scorer(model), optimizer)
    forget_peak_memory()
    turn.send(tokens_of(groups))
    turn.recv()

    model.eval()
    warm = score_all(scorer, groups[: options.batch], accelerator, layout)  # warms up, and does not count
    clock = Clock()
    reference = [*warm, *score_all(scorer, groups[options.batch :], accelerator, layout)]
    turn.send(Step(clock.cost()))
    model.train()
    examples = [Example(g, (True, False), logp_ref=sums) for g, sums in zip(groups, reference, strict=True)]

    def one_step(number: int) -> Step:
        clock = Clock()
        sums = StepSums(loss, settings)
        step_loss = 0.0
        batch = examples[number * options.batch : (number + 1) * options.batch]
        parts = whole_micro_batches([example.group for example in batch], **layout)
        for i, part in enumerate(parts):
            with sync_only_last(accelerator, scorer, last=i == len(parts) - 1):
                logp = sequence_logp(scorer(part.rows), part.rows)
                completions = compare(logp, lengths(part.rows), [batch[n] for n in part.numbers])
                value = loss(completions, **settings).sum() / len(batch)
                check_finite(value, Path("/tmp"), rows=part.rows)
                accelerator.backward(value)
            step_loss += float(value.detach())
            sums.add(completions, pairs=True)
        sums.means(accelerator)
        optimizer_step(accelerator, model, optimizer, lr=LR, max_grad_norm=MAX_GRAD_NORM)
        return Step(clock.cost(), step_loss, sum(part.rows.input_ids.numel() for part in parts))

    while (number := turn.recv()) is not None:
        turn.send(one_step(number))
