"""Where measuring computes."""

from __future__ import annotations

import torch


def pick_device(name: str | None = None) -> torch.device:
    """The device of this name; by default the accelerator where there is one, else the CPU."""
    if name is not None:
        return torch.device(name)
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
