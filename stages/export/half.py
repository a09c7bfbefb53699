"""Numbers of an ONNX model in half the space, where that changes none of them."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

LEAST = 2**10
"""Fewer numbers than this aren't worth it."""


def store_in_half(model: Any) -> None:
    """Store large constants of an ONNX ``model`` in half precision, if that holds their numbers exactly.

    Memory banks and the weights of published generators are such: their numbers were rounded when they were
    made. The model turns them into single precision when it is loaded.
    """
    onnx = importlib.import_module("onnx")
    single, graph, casts = onnx.TensorProto.FLOAT, model.graph, []
    for tensor in graph.initializer:
        if tensor.data_type != single or np.prod(tensor.dims) < LEAST:
            continue
        values = onnx.numpy_helper.to_array(tensor)
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        if not np.array_equal(half, values):
            continue
        name = tensor.name
        tensor.CopyFrom(onnx.numpy_helper.from_array(half, f"{name}_in_half"))
        casts.append(onnx.helper.make_node("Cast", [tensor.name], [name], to=single))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
