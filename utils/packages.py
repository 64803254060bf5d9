"""Packages that only some commands need: what is missing is said in one line, with how to install it."""

from __future__ import annotations

import importlib.util

from utils.errors import ConfigError


def require(*names: str, file: str) -> None:
    """ConfigError that names the packages that are not installed; `file`: the requirements list that has them."""
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"{', '.join(missing)} not installed; install with: pip install -r {file}")
