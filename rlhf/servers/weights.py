"""A policy's weights on their way to a vLLM server: through a folder that both see.

All weights travel (`reload_weights`), or under LoRA the adapters alone. vLLM's ways from GPU to GPU (NCCL, IPC) are not
used.
"""

import hashlib
import shutil
import uuid
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rlhf.models.lora import save_adapter
from rlhf.run.session import Session
from rlhf.servers.vllm import VllmServer


class Weights:
    """The weights of a policy in training. What was written goes when the run is left.

    Args:
        folder: that they travel through; None: one in the run directory.
        lora: whether the adapters travel alone.
    """

    def __init__(self, session: Session, model: PreTrainedModel, *, folder: str | None, lora: bool):
        self.model = model
        self.lora = lora
        self.base = session.base
        self.dtype = torch.bfloat16 if session.precision == "bf16" else torch.float32
        parent = (Path(folder) if folder else session.path / "vllm_weights").absolute()
        # In a folder that runs may share, the names are this run's own.
        run = hashlib.sha256(str(session.path.absolute()).encode()).hexdigest()[:8]
        self.next, self.before = (parent / f"weights_{run}_{i}" for i in range(2))
        if session.accelerator.is_main_process:
            session.leftovers += [self.next, self.before] if folder else [parent]

    def send(self, server: VllmServer) -> None:
        """Have a server take the weights as they are now, under a name that no other weights have.

        They are written beside those that it took before, which then go.

        Raises:
            NoAnswerError: the server is gone.
            UserError: it does not take them.
        """
        shutil.rmtree(self.next, ignore_errors=True)
        if self.lora:
            save_adapter(self.model, self.next, base=self.base, task="CAUSAL_LM")
            server.load_adapter(self.next)
        else:
            write_weights(self.model, self.next, self.dtype)
            server.load_weights(self.next)
        server.forget_prefixes()
        server.name_weights(uuid.uuid4().hex)
        shutil.rmtree(self.before, ignore_errors=True)
        self.next, self.before = self.before, self.next


def write_weights(model: PreTrainedModel, folder: Path, dtype: torch.dtype) -> None:
    """Write a model in Hugging Face format, with its weights rounded to a precision."""
    copies: dict[int, Tensor] = {}  # by place, so that tied weights stay tied
    state = {
        name: copies.setdefault(weight.data_ptr(), weight.detach().to("cpu", dtype))
        for name, weight in model.state_dict().items()
    }
    model.save_pretrained(folder, state_dict=state)
