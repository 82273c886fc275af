"""Which profile block of a config file to use: `laptop` or `gpu`."""

from collections.abc import Callable, Mapping

from rlhf.config.keys import Layer

PROFILES = ("laptop", "gpu")
GPU_PROFILE_GB = 12  # decimal, as on the box: a "12 GB" card reports a little less than 12 GiB


def largest_cuda_gb() -> float:
    """Memory of the largest CUDA device in GB (1e9 bytes); 0 without one."""
    import torch

    if not torch.cuda.is_available():
        return 0.0
    return max(torch.cuda.get_device_properties(i).total_memory for i in range(torch.cuda.device_count())) / 1e9


def choose_profile(asked: str, *, blocks: Mapping[str, Layer], cuda_gb: Callable[[], float]) -> tuple[str, str]:
    """The profile and the reason for it. A config without profile blocks, such as a resolved one, is used as it is."""
    if not blocks:
        return "none", "the config has no profile blocks" + ("" if asked == "auto" else f", so {asked} changes nothing")
    if asked != "auto":
        return asked, "asked for with --profile"
    if (found := cuda_gb()) >= GPU_PROFILE_GB:
        return "gpu", f"a CUDA device with {found:.0f} GB is there"
    largest = f"the largest CUDA device has {found:.0f} GB, less than {GPU_PROFILE_GB}" if found else "no CUDA device"
    return "laptop", largest
