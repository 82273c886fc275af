"""Which kernels multiply matrices on a CPU. (Which attention kernel takes which rows: rlhf/logprobs.py.)"""

from collections.abc import Generator
from contextlib import contextmanager

import torch


@torch.no_grad()
def choose_fp32_kernels() -> bool:
    """Have PyTorch multiply fp32 matrices with oneDNN instead of MKL where that is faster at the same precision.

    MKL keeps its fast kernels from processors that are not Intel's. oneDNN is asked by allowing it bf16, which it takes
    on AMX units only; elsewhere it computes in fp32, with a kernel about 1.7 times as fast. Whether that is so here is
    found out by multiplying: a product that is not exact to fp32 takes the permission back.

    Returns:
        Whether the kernels changed.
    """
    if not torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported():
        return False
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 256, 256, generator=generator)
    exact = a.double() @ b.double()
    matmul = torch.backends.mkldnn.matmul  # ty: ignore[missing-attribute] - made when torch is loaded
    allowed = matmul.fp32_precision
    matmul.fp32_precision = "bf16"
    if bool((a @ b - exact).abs().max() < 1e-4):  # rounded to bf16 it would be 0.1
        return True
    matmul.fp32_precision = allowed
    return False


@contextmanager
def own_fp32_kernels() -> Generator[None]:
    """Have PyTorch choose fp32 kernels by itself for a while.

    oneDNN prepares every shape of a product anew. Where nearly all products are small, as in attention over one token,
    that costs more than its kernels gain.
    """
    matmul = torch.backends.mkldnn.matmul  # ty: ignore[missing-attribute] - made when torch is loaded
    chosen = matmul.fp32_precision
    matmul.fp32_precision = "none"
    try:
        yield
    finally:
        matmul.fp32_precision = chosen


def has_bf16_kernels() -> bool:
    """Whether PyTorch multiplies bf16 fast here. With AVX2 alone, say, it takes 10 to 300 times as long as fp32."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
