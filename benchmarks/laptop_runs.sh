#!/usr/bin/env bash
# The runs behind docs/RESULTS.md: every policy gradient on spelling, two of them on arithmetic; three
# seeds each. Interrupted, it goes on where it stopped.
set -euo pipefail
cd "$(dirname "$0")/.."
uv run python -m policy_gradients.compare --algorithms all --seeds 3 --profile laptop --folder runs/compare-spell
uv run python -m policy_gradients.compare --algorithms grpo,reinforce --seeds 3 --profile laptop \
  --folder runs/compare-arithmetic --task step_arithmetic --max_steps 40
uv run python -m policy_gradients.compare --algorithms reinforce --seeds 3 --profile laptop --baseline none --folder runs/compare-bare
cp runs/compare-spell/comparison.png docs/images/spell.png
cp runs/compare-arithmetic/comparison.png docs/images/arithmetic.png
