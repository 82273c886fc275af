"""What the algorithm families share: tensors, models, tokens, sampling, tasks, runs. Knows no algorithm by name."""

import logging
import os
import warnings

# Read by OpenMP when torch is loaded, which is after this: idle threads sleep; those of GNU's OpenMP spin first while
# there are no more of them than cores, which `cpu/idle_threads.py` sees to.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "300000")  # a few milliseconds, as GNU's OpenMP has it by itself

# transformers loads torchao with itself. That registers with PyTorch what PyTorch has by now, which is no news to
# somebody who trains, and has an escape sequence in a docstring.
logging.getLogger("torch.utils._pytree").addFilter(lambda record: "register_constant" not in str(record.msg))
warnings.filterwarnings("ignore", category=SyntaxWarning, module=".*torchao")
# peft asks a model for a property by a name that transformers gives up.
warnings.filterwarnings("ignore", category=FutureWarning, message=".*is_gradient_checkpointing")
