#!/usr/bin/env bash
# The runs behind docs/RESULTS.md: both algorithms on both laptop tasks, three seeds each, then the pictures.
set -euo pipefail
cd "$(dirname "$0")/.."
for seed in 0 1 2; do
  for algorithm in grpo reinforce; do
    config=policy_gradients/configs/$algorithm.yaml
    uv run python -m policy_gradients.train --config $config --profile laptop --seed $seed --quiet --overwrite \
      --output_dir runs/$algorithm-spell-seed$seed
    uv run python -m policy_gradients.train --config $config --profile laptop --seed $seed --quiet --overwrite \
      --task step_arithmetic --max_steps 60 --output_dir runs/$algorithm-arithmetic-seed$seed
  done
done
for task in spell arithmetic; do
  uv run python -m rlhf.report runs/*-$task-seed? --label algorithm \
    --output runs/$task.html --png docs/images/$task.png
done
