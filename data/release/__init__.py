"""Find and read the raw releases, MIMIC-CXR-JPG 2.0.0 / 2.1.0 and MIMIC-Ext-CXR-QBA 1.0.0, in every layout on disk.

Plain or gzipped tables, zip archives or unpacked folders, with or without an inner `qa/`, the exports, `wget -r` trees.
"""

from data.release.check import Problem, check, layout_notes
from data.release.extract import extract_release
from data.release.reader import Release, find_release, open_release, wanted_views

__all__ = [
    "Problem",
    "Release",
    "check",
    "extract_release",
    "find_release",
    "layout_notes",
    "open_release",
    "wanted_views",
]
