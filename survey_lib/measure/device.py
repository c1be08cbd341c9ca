"""What a time was measured on."""

import platform
from pathlib import Path

import torch
from torch import Tensor


def processor() -> str:
    """Name of the processor."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def device_name(example: Tensor) -> str:
    """Name of the device a tensor lies on, as the latency harness uses it."""
    if example.is_cuda:
        return torch.cuda.get_device_name(example.device)
    return f"{processor()}, 1 thread"
