"""Names of the ways to explain an answer. Nothing heavy is imported here: command lines read it."""

from __future__ import annotations

from models.cam_methods import CAM_METHODS

REGION_POINTER, SIM_REGIONS, SIM_IMAGE = "regions", "sim-regions", "sim-image"
ATTENTION_METHODS: tuple[str, ...] = (REGION_POINTER, SIM_REGIONS, SIM_IMAGE)
"""Where the model reads: the graph reader's pointer; SIM's attention to the regions; SIM's attention to the feature map"""
METHODS: tuple[str, ...] = (*CAM_METHODS, *ATTENTION_METHODS)
DEFAULT_METHODS: tuple[str, ...] = ("layercam", REGION_POINTER)
"""One of what an answer depends on, one of where it was read; both pass the checks on the look-alike data"""
