"""What the algorithm families share: tensors, models, tokens, sampling, tasks, runs. Knows no algorithm by name."""

import os

# Read by OpenMP when torch is loaded, which is after this. A thread with nothing to do sleeps instead of spinning: on a
# machine that does anything else besides, a small model is otherwise up to two hundred times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
