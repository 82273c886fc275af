"""The config keys of trainers whose completions a vLLM server may sample."""

from typing import Literal

from pydantic import Field, model_validator

from rlhf.config.addresses import Address
from rlhf.config.paths import PathName
from rlhf.config.sampling import SamplingConfig
from rlhf.config.trainer import TrainerConfig

COLDEST_OF_VLLM = 1e-2  # vLLM samples at this temperature where a lower one is asked for


class VllmConfig(TrainerConfig):
    """vLLM"""

    sampler: Literal["own", "vllm"] = Field(
        "own",
        description="What samples the completions to train on: own, in this process; vllm, the server at vllm_url.",
    )
    vllm_url: Address | None = Field(
        None, description="Address of a running `vllm serve`, such as http://localhost:8000; see docs/vllm.md."
    )
    vllm_folder: PathName | None = Field(
        None,
        description="Folder that weights travel through, which the server sees under the same name; null: one in the "
        "run directory.",
    )
    vllm_patience_s: float = Field(
        600.0, gt=0, description="Seconds that a call may take, and that a server which is gone is waited for."
    )

    @model_validator(mode="after")
    def _vllm_can_do_it(self) -> "VllmConfig":
        if self.sampler == "own" and (self.vllm_url or self.vllm_folder):
            raise ValueError("vllm_url and vllm_folder are for --sampler vllm")
        if self.sampler == "own":
            self.refuse_idle("vllm_patience_s", because="no server samples", cure="--sampler vllm --vllm_url ADDRESS")
            return self
        if self.vllm_url is None:
            raise ValueError("sampler vllm: the address of the server is missing: --vllm_url http://localhost:8000")
        if isinstance(self, SamplingConfig):
            if self.temperature < COLDEST_OF_VLLM:
                raise ValueError(f"temperature: vLLM samples at {COLDEST_OF_VLLM} where a lower one is asked for")
            if self.sampling_batch is not None:
                raise ValueError("sampling_batch: vLLM decides how many it decodes together: vllm serve --max-num-seqs")
        return self
