"""Data sets that can be read instead of the MIMIC releases: which setting of `data` names one, and what reads it."""

from __future__ import annotations

from dataclasses import Field, field, fields


def other_set(reader: str, *, published: bool = False) -> str:
    """The default of a setting of `data` that names the file or folder of such a set; empty: it is not read.

    Args:
        reader: `module.function`, imported when it is needed: path -> `data.records.RecordSet`.
        published: there is one set of this kind, wherever it lies; else two paths are two sets.
    """
    return field(default="", metadata={"reader": reader, "published": published})


def other_sets(data: object) -> dict[str, Field]:
    """Name -> field of the settings of a data section, or of its class, that name such sets."""
    return {one.name: one for one in fields(data) if "reader" in one.metadata}


def named_sets(data: object) -> list[str]:
    """Those that are filled in; `validation` refuses more than one."""
    return [name for name in other_sets(data) if getattr(data, name)]


def external_setting(data: object) -> str | None:
    """The setting that names a data set to read instead of the release; None: the release is read."""
    return next(iter(named_sets(data)), None)
