"""8-bit weights for exported graphs: dynamic quantisation of matrix products by ONNX Runtime, without calibration.

Weights are rounded to 8 bits once, a scale for each output; what is multiplied with them is rounded at run time, a scale
for each call. Convolutions stay in fp32: docs/EXPORT.md has what they would bring.
"""

from __future__ import annotations

import logging
from pathlib import Path

from models.onnx_folder import GRAPHS, file_of

QUANTISED = ("MatMul",)
"""Operators; Gemm becomes MatMul first"""


def quantise(folder: Path, operators: tuple[str, ...] = QUANTISED) -> None:
    """Write *.int8.onnx beside the three fp32 graphs of a folder."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # advice to let ONNX Runtime rewrite the graph first, which the exporter has done
    try:
        for graph in GRAPHS:
            source = folder / file_of(graph, "fp32")
            quantize_dynamic(
                source,
                folder / file_of(graph, "int8"),
                op_types_to_quantize=list(operators),
                per_channel=True,
                weight_type=QuantType.QInt8,
                use_external_data_format=source.with_name(f"{source.name}.data").exists(),
            )
    finally:
        root.setLevel(level)
