"""Where one model runs that is asked or explained. Trainings choose by rank: `training.processes`."""

from __future__ import annotations

import torch

from utils.errors import ConfigError


def find_device(name: str) -> torch.device:
    """`auto`: the first GPU, else the CPU. ConfigError for one that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()  # `meta` makes tensors, and holds nothing in them
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].split(". ")[0]
        raise ConfigError(f"device {name}: cannot be used ({reason}); give cpu, cuda or auto") from error
    return device
