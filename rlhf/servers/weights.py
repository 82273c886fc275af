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
        self.newest, self.before = (parent / f"weights_{run}_{i}" for i in range(2))
        self.written = False
        if session.accelerator.is_main_process:
            session.leftovers += [self.newest, self.before] if folder else [parent]

    def write(self) -> None:
        """Write the weights as they are now, beside those that the server took before."""
        self.newest, self.before = self.before, self.newest
        shutil.rmtree(self.newest, ignore_errors=True)
        if self.lora:
            save_adapter(self.model, self.newest, base=self.base, task="CAUSAL_LM")
        else:
            write_weights(self.model, self.newest, self.dtype)
        self.written = True

    def send(self, server: VllmServer) -> None:
        """Have a server take the weights as they were when they were last written, under a name that no other weights
        have. Those that it took before go.

        Raises:
            NoAnswerError: the server is gone.
            UserError: it does not take them.
        """
        if not self.written:
            self.write()
        if self.lora:
            server.load_adapter(self.newest)
        else:
            server.load_weights(self.newest)
        server.forget_prefixes()
        server.name_weights(uuid.uuid4().hex)
        shutil.rmtree(self.before, ignore_errors=True)


def write_weights(model: PreTrainedModel, folder: Path, dtype: torch.dtype) -> None:
    """Write a model in Hugging Face format, with its weights rounded to a precision."""
    copies: dict[int, Tensor] = {}  # by place, so that tied weights stay tied
    state = {
        name: copies.setdefault(weight.data_ptr(), weight.detach().to("cpu", dtype))
        for name, weight in model.state_dict().items()
    }
    model.save_pretrained(folder, state_dict=state)
