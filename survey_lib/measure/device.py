"""What a time was measured on."""

import platform
from pathlib import Path

import torch
from torch import Tensor

FLAGS = ("avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8")
"""Instructions that decide which kernels run, and so the last bits of a sum."""


def _cpuinfo() -> dict[str, str]:
    """Fields of the first processor that Linux lists; empty elsewhere."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().split("\n\n")[0].splitlines() if info.exists() else []
    return {k.strip(): v.strip() for k, _, v in (line.partition(":") for line in lines)}


def processor() -> str:
    """Name of the processor."""
    return _cpuinfo().get("model name") or platform.processor() or platform.machine()


def processor_detail() -> str:
    """Family, model and instructions of the processor, and the kernels that torch picks for it."""
    info = _cpuinfo()
    flags = info.get("flags", info.get("Features", "")).split()
    parts = [
        platform.machine(),
        *(f"{name} {info[key]}" for name, key in (("family", "cpu family"), ("model", "model"))
          if key in info),
        *(flag for flag in FLAGS if flag in flags),
        f"torch {torch.backends.cpu.get_cpu_capability()}",
    ]  # fmt: skip
    return ", ".join(parts)


def device_name(example: Tensor) -> str:
    """Name of the device a tensor lies on, as the latency harness uses it."""
    if example.is_cuda:
        return torch.cuda.get_device_name(example.device)
    return f"{processor()}, 1 thread"
