"""Kernels that are chosen for a CPU are as exact as before."""

import torch

from rlhf.cpu.kernels import choose_fp32_kernels


def test_products_stay_exact_to_fp32():
    choose_fp32_kernels()
    a, b = torch.randn(2, 300, 300, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close((a @ b).double(), a.double() @ b.double(), atol=1e-4, rtol=0)
