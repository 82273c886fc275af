"""What the algorithm families share: tensors, models, tokens, sampling, tasks, runs. Knows no algorithm by name."""

import logging
import os
import warnings

# Read by OpenMP when torch is loaded, which is after this. A thread with nothing to do soon sleeps instead of spinning:
# on a machine that does anything else besides, a small model is otherwise many times slower. Not at once, since waking
# a thread for every operation would double the time of sampling on an idle machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

# transformers loads torchao with itself. That registers with PyTorch what PyTorch has by now, which is no news to
# somebody who trains, and has an escape sequence in a docstring.
logging.getLogger("torch.utils._pytree").addFilter(lambda record: "register_constant" not in str(record.msg))
warnings.filterwarnings("ignore", category=SyntaxWarning, module=".*torchao")
# peft asks a model for a property by a name that transformers gives up.
warnings.filterwarnings("ignore", category=FutureWarning, message=".*is_gradient_checkpointing")
