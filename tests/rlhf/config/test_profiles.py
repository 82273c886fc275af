"""Which GPU is there: PyTorch is asked where a driver is, and not at all where none is."""

import ctypes
import sys
from typing import Any

import pytest

from rlhf.config import profiles


class Driver:
    """NVIDIA's driver, with devices of so many bytes."""

    def __init__(self, *sizes: int, status: int = 0):
        self.sizes, self.status = sizes, status

    def cuInit(self, _flags: int) -> int:
        return self.status

    def cuDeviceGetCount(self, count: Any) -> int:
        count._obj.value = len(self.sizes)
        return 0

    def cuDeviceGet(self, device: Any, number: int) -> int:
        device._obj.value = number
        return 0

    def cuDeviceTotalMem_v2(self, size: Any, device: ctypes.c_int) -> int:
        size._obj.value = self.sizes[device.value]
        return 0


def test_without_a_driver_pytorch_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiles, "may_have_gpu", lambda: False)
    monkeypatch.setitem(sys.modules, "torch", None)  # to import it would raise
    assert profiles.largest_cuda_gb() == 0.0


def test_with_a_driver_pytorch_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    """A PyTorch without CUDA sees no device, whatever the driver has."""
    monkeypatch.setattr(profiles, "_nvidia_driver", lambda: Driver(80 * 10**9))
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert profiles.largest_cuda_gb() == 0.0


@pytest.mark.parametrize(
    ("driver", "largest"),
    [
        (None, 0.0),
        (Driver(), 0.0),
        (Driver(8 * 10**9, 24 * 10**9, 16 * 10**9), 24.0),
        (Driver(24 * 10**9, status=100), 0.0),  # CUDA_ERROR_NO_DEVICE
    ],
)
def test_the_driver_alone(monkeypatch: pytest.MonkeyPatch, driver: Driver | None, largest: float) -> None:
    monkeypatch.setattr(profiles, "_nvidia_driver", lambda: driver)
    assert profiles.driver_cuda_gb() == largest
