"""Sweeps of Weights & Biases: a file of the settings to try, and the settings of one trial.

Types, ranges and choices are those of the configuration itself. What can be tried is numbers, switches and choices of the
sections `SECTIONS`: the file goes to the service, so it has no texts, no paths and no lists.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import islice, product

import yaml

from configs import loading
from configs.mimic_cxr_config import TYPES, Config, from_dict, to_dict
from configs.validation import CHOICES, RANGES, problems
from utils.errors import ConfigError

SECTIONS = ("model", "data", "training")
METHODS = ("random", "bayes", "grid")
METRIC = "val/headline"
PROGRAM = "scripts/track.py"
DEFAULT = (
    "training.learning_rate=5e-6..2e-4",
    "training.new_layer_lr_scale=1..50",
    "training.weight_decay=0..0.1",
    "model.dropout=0..0.3",
)
"""What is tried when no parameter is named."""
LOGARITHMIC = 10
"""Ranges of positive numbers whose ends are this many times apart are drawn evenly over their logarithm."""
MOST_CHECKED = 2000
"""Combinations of values that are checked against the rules of the configuration."""


def sweepable() -> list[str]:
    """The settings that a sweep can try."""
    return [
        key
        for key, kind in TYPES.items()
        if key.split(".")[0] in SECTIONS and (key in CHOICES or kind in (int, float, bool))
    ]


def parse_parameter(text: str) -> tuple[str, dict[str, object]]:
    """`key=low..high`, `key=value,value` or `key` alone, for all its choices or its whole range -> key and W&B's words for it.

    ConfigError: no such setting (with the nearest one), one that cannot be tried, or a value that is none of its type.
    """
    key, equals, raw = (part.strip() for part in text.partition("="))
    _check_key(key, f"--parameter {text}")
    if not equals:
        return key, _everything(key)
    if ".." in raw:
        return key, _range(key, *(_value(key, end, text) for end in raw.split("..", 1)), text)
    values = [_value(key, part, text) for part in raw.split(",")]
    if len(set(values)) < len(values):
        raise ConfigError(f"--parameter {text}: the same value twice: remove one")
    return key, {"values": values}


def _check_key(key: str, source: str) -> None:
    if key not in TYPES:
        raise loading.unknown_key(key, TYPES, source)
    if key not in sweepable():
        raise ConfigError(
            f"{source}: {key} cannot be tried: a sweep has numbers, switches and choices of the sections "
            f"{', '.join(SECTIONS)}; put it into the configuration of the trials"
        )


def _value(key: str, raw: str, text: str) -> object:
    """A value of the setting's type."""
    try:
        return loading.parse_set(f"{key}={raw.strip()}", TYPES)[1]
    except ConfigError:
        raise ConfigError(f"--parameter {text}: {raw.strip()!r} must be {loading.KINDS[TYPES[key]]}") from None


def _everything(key: str) -> dict[str, object]:
    if key in CHOICES:
        return {"values": list(CHOICES[key])}
    if TYPES[key] is bool:
        return {"values": [True, False]}
    if key in RANGES:
        return _range(key, *(TYPES[key](end) for end in RANGES[key]), key)
    raise ConfigError(f"--parameter {key}: say what to try: {key}=low..high or {key}=value,value")


def _range(key: str, low: object, high: object, text: str) -> dict[str, object]:
    if key in CHOICES or TYPES[key] is bool:
        raise ConfigError(f"--parameter {text}: {key} has no range: name values, such as {key}=value,value")
    if not low < high:
        raise ConfigError(f"--parameter {text}: the first end must be the lower one")
    wide = low > 0 and high / low >= LOGARITHMIC
    kinds = {int: ("int_uniform", "q_log_uniform_values"), float: ("uniform", "log_uniform_values")}
    words = {"distribution": kinds[TYPES[key]][wide], "min": low, "max": high}
    return words | ({"q": 1} if wide and TYPES[key] is int else {})


def sweep_file(parameters: Sequence[str], base: Config, method: str = "random", name: str = "") -> str:
    """The YAML text for `wandb sweep`.

    Args:
        parameters: as of `parse_parameter`; none: `DEFAULT`.
        base: the configuration of the trials, for the rules that join several settings. Nothing of it is in the file.
        method: `random`, `bayes` (needs ranges or values all the same) or `grid` (needs values).

    Raises:
        ConfigError: also for values, or a combination of them, that the configuration refuses.
    """
    found: dict[str, dict[str, object]] = {}
    for text in parameters or DEFAULT:
        key, words = parse_parameter(text)
        if key in found:
            raise ConfigError(f"--parameter {text}: {key} is given twice: remove one")
        found[key] = words
    if method == "grid" and (ranges := [key for key, words in found.items() if "values" not in words]):
        raise ConfigError(f"--method grid: {', '.join(ranges)} must have values, such as {ranges[0]}=value,value")
    _check_values(found, base)
    sweep = {
        **({"name": name} if name else {}),
        "program": PROGRAM,
        "method": method,
        "metric": {"name": METRIC, "goal": "maximize"},
        "parameters": found,
        "command": ["${env}", "${interpreter}", "${program}", "trial", "${args}"],
    }
    return yaml.safe_dump(sweep, sort_keys=False)


def _check_values(found: dict[str, dict[str, object]], base: Config) -> None:
    """ConfigError for values, ends of ranges or combinations of them (the first `MOST_CHECKED`) that break a rule."""
    known = set(problems(base))
    tried = [words.get("values") or _probes(words["min"], words["max"]) for words in found.values()]
    config = from_dict(to_dict(base))
    for values in islice(product(*tried), MOST_CHECKED):
        for key, value in zip(found, values):
            loading.put(config, key, value)
        for key, rule in problems(config):
            if (key, rule) not in known:
                chosen = ", ".join(f"{key}={value}" for key, value in zip(found, values))
                raise ConfigError(
                    f"--parameter: with {chosen}: {key} = {loading.get(config, key)!r} {rule}; name the values that can be"
                )


def _probes(low: float, high: float) -> list[float]:
    """The ends of a range, and a whole number between them that is no multiple of anything by chance."""
    return [low, high, *([low + 1] if isinstance(low, int) and low + 1 < high else [])]


def trial_settings(arguments: Sequence[str]) -> list[str]:
    """`--section.key=value`, as an agent gives them, -> `section.key=value` for `--set`.

    ConfigError: another form, no such setting, or one that a sweep cannot try.
    """
    sets = []
    for argument in arguments:
        key, equals, value = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or not equals:
            raise ConfigError(f"trial {argument}: must have the form --section.key=value")
        _check_key(key, f"trial {argument}")
        number = TYPES[key] is int and _whole(value)  # a service that counts in floating point says 4.0 for 4
        sets.append(f"{key}={number or value}")
        loading.parse_set(sets[-1], TYPES)
    return sets


def _whole(text: str) -> str:
    try:
        number = float(text)
    except ValueError:
        return ""
    return str(int(number)) if math.isfinite(number) and number.is_integer() else ""
