"""8-bit weights for exported graphs: dynamic quantisation of matrix products by ONNX Runtime, without calibration.

Weights are rounded to 8 bits once, a scale for each output; what is multiplied with them is rounded at run time, a scale
for each call. Convolutions stay in fp32: docs/EXPORT.md has what they would bring.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from models.onnx_folder import GRAPHS, file_of

QUANTISED = ("MatMul",)
"""Operators; Gemm becomes MatMul first"""


def quantise(folder: Path, operators: tuple[str, ...] = QUANTISED) -> None:
    """Write *.int8.onnx beside the three fp32 graphs of a folder."""
    for graph in GRAPHS:
        source = folder / file_of(graph, "fp32")
        large = source.with_name(f"{source.name}.data").exists()
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            folded = Path(scratch) / "folded.onnx"
            _fold(source, folded, large)
            _quantise(folded, folder / file_of(graph, "int8"), operators, large)


def _fold(source: Path, target: Path, large: bool) -> None:
    """Products of weights become weights, which can be rounded."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    quant_pre_process(source, target, skip_symbolic_shape=True, save_as_external_data=large)


def _quantise(source: Path, target: Path, operators: tuple[str, ...], large: bool) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        source,
        target,
        op_types_to_quantize=list(operators),
        per_channel=True,
        reduce_range=True,  # 7 bits: sums of 8 overflow on processors without VNNI
        weight_type=QuantType.QInt8,
        use_external_data_format=large,
    )
