"""Plain values (YAML, `section.key=value`, dictionaries) into a dataclass of dataclasses, strictly.

Nothing here knows a particular setting: `configs.mimic_cxr_config` has the settings, `configs.validation` their rules.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import typing
from pathlib import Path

import yaml

from utils.errors import ConfigError

MAX_BYTES = 1_000_000
"""Largest YAML file that is read; a configuration has a few kilobytes."""

KINDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    list[str]: "a list of texts, such as [a, b]",
    dict: "a mapping, such as {name: value}",
}


def field_types(root: type) -> dict[str, type]:
    """Dotted key -> type, in the order of declaration, for a dataclass whose fields are dataclasses (the sections)."""
    types = {}
    for section, section_type in typing.get_type_hints(root).items():
        for name, kind in typing.get_type_hints(section_type).items():
            types[f"{section}.{name}"] = kind
    return types


def get(config: object, key: str) -> object:
    """The value of a dotted key."""
    section, name = key.split(".")
    return getattr(getattr(config, section), name)


def put(config: object, key: str, value: object) -> None:
    """Set a dotted key; the value is not checked: see `convert`."""
    section, name = key.split(".")
    setattr(getattr(config, section), name, value)


# Reading


def read_yaml_chain(path: str | Path) -> list[tuple[Path, dict]]:
    """The file and the files its `base:` entries name, the deepest base first, each as a dictionary without `base`.

    A base is relative to the file that names it. ConfigError for a missing, unreadable or circular file.
    """
    chain: list[tuple[Path, dict]] = []
    path, named_by = Path(path), ""
    while True:
        if any(path.resolve() == known.resolve() for known, _ in chain):
            raise ConfigError(f"{path}: is its own base{named_by}: remove one `base:` entry")
        values = _read_yaml(path, named_by)
        base = values.pop("base", None)
        chain.append((path, values))
        if base is None:
            return chain[::-1]
        if not isinstance(base, str):
            raise ConfigError(f"{path}: base: must be the name of one YAML file, not {base!r}")
        path, named_by = path.parent / base, f" (named as base by {path})"


def _read_yaml(path: Path, named_by: str) -> dict:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError(f"{path}: larger than {MAX_BYTES} bytes{named_by}: this is no configuration file")
        text = path.read_text(encoding="utf-8")
        values = yaml.safe_load(text)
        _refuse_duplicates(yaml.compose(text, Loader=yaml.SafeLoader), path)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such configuration file{named_by}: check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read{named_by}: {error}") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{path}: is not valid YAML: {' '.join(str(error).split())}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: must hold sections such as `training:`, not {type(values).__name__}")
    return values


def _refuse_duplicates(node: yaml.Node | None, path: Path, depth: int = 0) -> None:
    """YAML lets the last of two equal keys win without a word; a user would look for the first one for hours."""
    if not isinstance(node, yaml.MappingNode) or depth > 1:
        return
    seen = set()
    for key, value in node.value:
        if key.value in seen:
            line = key.start_mark.line + 1
            raise ConfigError(f"{path}: line {line}: the key {key.value!r} is given twice: remove one")
        seen.add(key.value)
        _refuse_duplicates(value, path, depth + 1)


def flatten(values: object, types: dict[str, type], source: str) -> dict[str, object]:
    """Sections of settings -> dotted key: value, converted to the settings' types. ConfigError names key and source."""
    if not isinstance(values, dict):
        raise ConfigError(f"{source}: must hold sections such as `training:`, not {type(values).__name__}")
    sections = {key.split(".")[0] for key in types}
    flat = {}
    for section, settings in values.items():
        if section not in sections:
            raise unknown_key(str(section), types, source)
        if settings is None:
            continue
        if not isinstance(settings, dict):
            raise ConfigError(f"{source}: {section}: is a section and must hold `key: value` lines, not {settings!r}")
        for name, value in settings.items():
            key = f"{section}.{name}"
            if key not in types:
                raise unknown_key(key, types, source)
            flat[key] = convert(key, value, types[key], source)
    return flat


def parse_set(text: str, types: dict[str, type]) -> tuple[str, object]:
    """`section.key=value` -> key and converted value. Numbers, lists and mappings are written as in YAML."""
    key, equals, raw = text.partition("=")
    key, raw = key.strip(), raw.strip()
    if not equals:
        raise ConfigError(f"--set {text}: must have the form section.key=value")
    if key not in types:
        raise unknown_key(key, types, "--set")
    if types[key] is str:
        quoted = len(raw) > 1 and raw[0] == raw[-1] and raw[0] in "'\""
        return key, raw[1:-1] if quoted else raw
    try:
        value = yaml.safe_load(raw)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {text}: the value is not valid YAML: {' '.join(str(error).split())}") from error
    return key, convert(key, value, types[key], "--set")


# Checking


def convert(key: str, value: object, kind: type, source: str) -> object:
    """`value` as `kind`, or ConfigError. Nothing at all means empty text, list or mapping.

    2e-5 is text to YAML 1.1 but plainly a number; text settings named `enabled` know more words than true and false.
    """
    if value is None and kind in (str, list[str], dict):
        return "" if kind is str else [] if kind == list[str] else {}
    if kind is float and isinstance(value, (int, float, str)) and not isinstance(value, bool):
        number = _number(value)
        if number is not None:
            return number
    elif kind is str and isinstance(value, bool) and key.endswith(".enabled"):
        return "true" if value else "false"
    elif kind == list[str]:
        if isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value):
            return list(value)
    elif kind is dict:
        if isinstance(value, dict) and all(isinstance(name, str) for name in value):
            return dict(value)
    elif type(value) is kind:
        return value
    raise ConfigError(f"{source}: {key} = {value!r}: must be {KINDS[kind]}")


def _number(value: int | float | str) -> float | None:
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def unknown_key(key: str, types: dict[str, type], source: str) -> ConfigError:
    """The error for a key that does not exist, with the nearest one that does."""
    near = nearest(key, types)
    return ConfigError(
        f"{source}: unknown key {key!r}"
        + (f": did you mean {near!r}?" if near else ": see configs/default_config.yaml for all keys")
    )


def nearest(key: str, types: dict[str, type]) -> str | None:
    """The dotted key or section that was most likely meant: the same name in another section, or a similar one."""
    section, _, name = key.rpartition(".")
    sections = dict.fromkeys(known.split(".")[0] for known in types)
    names = {
        known.split(".")[1]: known for known in types if section not in sections or known.startswith(f"{section}.")
    }
    same = [known for known in types if known.split(".")[1] == name]
    initials = [long for long in names if "".join(word[0] for word in long.split("_")) == name]  # lr: learning_rate
    similar_section = [] if section else difflib.get_close_matches(name, sections, n=1, cutoff=0.6)
    similar = [names[near] for near in initials or difflib.get_close_matches(name, names, n=1, cutoff=0.6)]
    return next(iter([*same, *similar_section, *similar]), None)


def to_dict(config: object) -> dict[str, dict[str, object]]:
    """Sections of plain values, as in the YAML files."""
    return dataclasses.asdict(config)
