"""The configuration with the hardware advice merged in, as training and its launcher see it."""

from __future__ import annotations

import argparse

from configs.mimic_cxr_config import LoadedConfig, config_from_args
from utils import hardware_utils
from utils.hardware_utils import Advice, Hardware


def with_advice(
    args: argparse.Namespace, flags: dict[str, str], hardware: Hardware, processes: int, nodes: int = 1
) -> tuple[LoadedConfig, list[Advice]]:
    """`config_from_args`, advised for `processes` processes on each of `nodes` machines like `hardware`; and the advice.

    What the user wrote stays, and accumulation fits the user's own batch. `args.no_auto`: the advice is not merged in.
    """
    asked = config_from_args(args, flags)
    batch = "training.batch_size_per_gpu"
    given = asked.config.training.batch_size_per_gpu if asked.origin[batch] != "default" else None
    reference = asked.config.training.reference_batch_size
    advice = hardware_utils.recommend(hardware, reference, given, nodes, processes)
    if args.no_auto:
        return asked, advice
    if asked.config.deepspeed.enabled and asked.origin["deepspeed.enabled"] != "default":
        # the user wants DeepSpeed where the advice is to do without: stage 0 belongs to that advice
        advice = [item for item in advice if (item.key, item.value) != ("deepspeed.stage", 0)]
    return config_from_args(args, flags, hardware_utils.settings(advice)), advice
