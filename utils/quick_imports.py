"""Importing PyTorch, timm and transformers in two thirds of the time."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

UNUSED = ("wandb", "scipy")
"""Libraries that others import if they are there, for what none of our programs calls: timm has a W&B log of its own."""


@contextmanager
def quick_imports() -> Iterator[None]:
    """For a block of imports at the start of a program.

    The garbage collector rests: it would go through hundreds of thousands of new objects time and again, though hardly
    one of them ever dies. Afterwards it leaves them out, here and in the processes that are forked from this one. The
    libraries of `UNUSED` seem not to be installed; whoever imports them later finds them.
    """
    hidden = [name for name in UNUSED if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # a name without a module cannot be imported
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]
        gc.freeze()
        if was_enabled:
            gc.enable()
