"""Policy gradients: uv run python -m policy_gradients.train --config policy_gradients/configs/grpo.yaml

Sample completions, reward them, subtract a baseline, and make the better ones more likely. What tells one algorithm
from another is in `algorithms/NAME.py`; the rest is shared. RLHF Book, chapter 6.

Axes of tensors: b prompts, g completions of each, n = b * g completions, t tokens of the longest completion.

    (b, g)    reward
    (n, t)    logp, logp_old, logp_ref, adv, mask; with a critic also value and target, which value is regressed on

What a step calls: sampler.py (completions and rewards), credit.py (rewards to advantages), update.py (the loss of the
policy and its optimizer step), critic.py (the same for PPO's critic), reference.py (the model that the KL is measured
against).
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from policy_gradients.config import PolicyGradientConfig
from policy_gradients.fill import fill
from policy_gradients.look import look
from rlhf.config.command import Command, read_command
from rlhf.errors import run_main
from rlhf.run.command import run_command

if TYPE_CHECKING:
    from rlhf.run.memory_plan import Plan
    from rlhf.run.result import RunResult

DEFAULT = Path(__file__).parent / "configs" / "grpo.yaml"


def train(command: Command[PolicyGradientConfig]) -> "RunResult":
    # Imported here, since they load PyTorch: --help and errors in a config come at once.
    from policy_gradients.credit import Credit
    from policy_gradients.critic import CriticLearner
    from policy_gradients.defaults import resolve
    from policy_gradients.diagnostics import Adviser, batch_metrics, describe_metrics, shown
    from policy_gradients.reference import Reference
    from policy_gradients.rewards import make_reward, refuse_unrewarded
    from policy_gradients.sampler import Sampler
    from policy_gradients.update import PolicyLearner
    from rlhf.evaluate.held_out import HeldOut
    from rlhf.run.session import open_session
    from rlhf.servers.vllm_sampler import VllmSampler
    from rlhf.tasks.of_config import open_tasks, training_task

    recipe = resolve(command.config)  # the algorithm, with every setting that the config leaves open filled in
    config = recipe.config
    command = replace(command, config=config)
    tasks = open_tasks(config)
    task = training_task(tasks, config)
    refuse_unrewarded(tasks, config)
    held_out = HeldOut(tasks, config, stop_at=config.stop_at)
    title = config.algorithm.upper()
    headline = ["reward/exact" if task.verifies else "reward/mean", "length/mean"]
    described = describe_metrics(config, verifies=task.verifies)
    with open_session(command, described, title=title, headline=headline, advice=Adviser().check) as session:
        session.describe(data=task.name, data_fingerprint=task.fingerprint)
        accelerator = session.accelerator
        reward = make_reward(task, config)
        model, tokenizer = session.load_policy()
        vllm = VllmSampler(session, model) if config.sampler == "vllm" else None
        sampler = Sampler(model, tokenizer, task, reward, accelerator, recipe, vllm)
        held_out.refuse_unreadable(model, tokenizer, sampler.first_problems())
        reference = Reference.load(session, model, recipe) if config.kl_coef else None
        critic = None
        if recipe.critic:
            critic = CriticLearner(session, model, recipe.critic, recipe)
        policy = PolicyLearner(session, model, reference, recipe)
        credit = Credit(recipe, accelerator)

        # `begin` restores all weights and optimizers, the critic's too; each part restores its own other state.
        _, state = session.begin()
        for stateful in (sampler, credit, policy):
            stateful.load_state(state)

        for step in session.steps(partial(held_out.evaluate, session, model, tokenizer, reward.totals)):
            # 1. Sample completions of new prompts and reward them. With staleness, take a batch sampled earlier.
            with session.watch("sampling"), session.saved_if_cut_off():
                batch = sampler.next_batch()

            # 2. Score them: logp_old, logp_ref and value, which stay the same during the optimizer steps on this batch.
            with session.watch("scoring"):
                policy.score(batch)
                if critic:
                    critic.score(batch)

            # 3. From rewards (b, g) to advantages (n, t).
            metrics = batch_metrics(batch, accelerator, reward.functions) | credit.assign(batch)

            # 4. Update: one optimizer step on each mini-batch. In the critic's warm-up the policy stays as it is.
            with session.watch("update"):
                mini_batches = batch.parts(config.steps_per_batch, passes=config.epochs_per_batch)
                for i, mini_batch in enumerate(mini_batches):
                    if step >= recipe.critic_warmup_steps:
                        policy_step = (step - recipe.critic_warmup_steps) * recipe.updates + i
                        policy.update(mini_batch, lr=session.learning_rate(policy_step, of=recipe.policy_updates))
                    if critic:
                        critic.update(mini_batch)

            # 5. Move the reference and its coefficient, log, sample, evaluate and save when due.
            done = step + 1
            metrics |= policy.end_step(done)
            if critic:
                metrics |= critic.end_step()
            tokens = round(metrics["length/mean"] * config.prompts_per_step * config.group_size)
            session.log(done, metrics, tokens=tokens, show=shown(metrics))
            if session.is_due("sample", done):
                session.log_samples(done, batch.samples())
            session.end_step(done, state=lambda: sampler.state() | credit.state() | policy.state())
        return session.end(model, tokenizer, next_command="uv run python -m rlhf.report {run} OTHER_RUN")


def plan(config: PolicyGradientConfig) -> "Plan":
    """What a run would do and load, for --plan."""
    from policy_gradients.defaults import resolve
    from policy_gradients.reward_loading import judge_models
    from rlhf.run.memory_plan import Plan, Sampled, memory_needs

    config = resolve(config).config
    own = config.sampler == "own"  # if not, only the held-out problems are sampled here
    memory = memory_needs(
        config,
        reference="always" if config.kl_coef else None,
        own_critic=config.critic is not None and config.critic.backbone == "own",
        reward_models=config.reward_models,
        judges=judge_models(config.reward_functions),
        sampled=[
            Sampled(
                config.prompts_per_step if own else 0,
                config.group_size,
                config.max_new_tokens,
                at_once=config.sampling_batch,
            ),
            Sampled(config.eval_problems, 1, config.max_new_tokens),
        ],
    )
    batches = (
        f"{config.max_steps} batches of {config.prompts_per_step} prompts x {config.group_size} completions of up to "
        f"{config.max_new_tokens} tokens" + ("" if own else f", sampled by vLLM at {config.vllm_url}")
    )
    return Plan(f"{config.algorithm} on {' + '.join(config.tasks) or config.task}", batches, memory)


def read(argv: Sequence[str]) -> Command[PolicyGradientConfig]:
    """The command line, without the program's name, as a command."""
    return read_command(
        PolicyGradientConfig,
        list(argv),
        prog="python -m policy_gradients.train",
        description="Train a policy on the reward of its own completions.",
        default_config=DEFAULT,
        named_by="algorithm",
        fill=fill,
    )


def main() -> int:
    return run_command(read(sys.argv[1:]), train, plan, look)


if __name__ == "__main__":
    sys.exit(run_main(main, debug="--debug" in sys.argv))
