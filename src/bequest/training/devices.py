"""What a device can do, asked honestly, and what bitwise resuming depends on."""

from __future__ import annotations

import platform
from typing import Any

import torch
import transformers


def computes_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bf16 matrices in hardware.

    A CPU counts only with AVX512-BF16 or AMX (or, on ARM, BF16 instructions): elsewhere oneDNN accepts bf16 too, but
    emulates it, more slowly than fp32.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        can = torch.cpu.get_capabilities()
        return bool(can.get("avx512_bf16") or can.get("amx_bf16") or can.get("bf16"))
    return False


def device_facts(device: torch.device, world: int, bf16: bool) -> dict[str, Any]:
    """What a bitwise equal continuation needs to be the same."""
    return {
        "threads": torch.get_num_threads(),
        "processes": world,
        "device": device.type if device.type == "cpu" else torch.cuda.get_device_name(device),
        "machine": platform.machine(),
        "bf16": bf16,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
