"""Which profile block of a config file to use: `laptop` or `gpu`."""

import ctypes
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from rlhf.config.keys import Layer

PROFILES = ("laptop", "gpu")
GPU_PROFILE_GB = 12  # decimal, as on the box: a "12 GB" card reports a little less than 12 GiB


def largest_cuda_gb() -> float:
    """Memory of the largest CUDA device in GB (1e9 bytes), as PyTorch sees it; 0 without one. Without a driver PyTorch,
    which takes seconds to load, is not asked."""
    if not may_have_gpu():
        return 0.0
    import torch

    if not torch.cuda.is_available():
        return 0.0
    return max(torch.cuda.get_device_properties(i).total_memory for i in range(torch.cuda.device_count())) / 1e9


def driver_cuda_gb() -> float:
    """The same by NVIDIA's driver alone, for --help: at once, and blind to a PyTorch without CUDA."""
    driver = _nvidia_driver()
    if driver is None or driver.cuInit(0) != 0:
        return 0.0
    count, size, device = ctypes.c_int(), ctypes.c_size_t(), ctypes.c_int()
    driver.cuDeviceGetCount(ctypes.byref(count))
    sizes = [0]
    for number in range(count.value):
        driver.cuDeviceGet(ctypes.byref(device), number)
        driver.cuDeviceTotalMem_v2(ctypes.byref(size), device)
        sizes.append(size.value)
    return max(sizes) / 1e9


def may_have_gpu() -> bool:
    """Whether there is a driver of NVIDIA, or of AMD, whose devices PyTorch calls CUDA too; and they are not hidden."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") == ""
    return not hidden and (_nvidia_driver() is not None or Path("/dev/kfd").exists())


def _nvidia_driver() -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        return None


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
