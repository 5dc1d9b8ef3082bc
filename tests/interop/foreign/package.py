"""A package that `cutline split` wrote, in onnxruntime: what every server here runs."""

from pathlib import Path

import numpy as np
import onnxruntime

TYPES = {
    "tensor(float)": ("FP32", np.float32),
    "tensor(float16)": ("FP16", np.float16),
    "tensor(uint8)": ("UINT8", np.uint8),
    "tensor(int64)": ("INT64", np.int64),
}


class Package:
    """The model of a package's only version."""

    def __init__(self, folder):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        path = Path(folder) / "1" / "model.onnx"
        self.session = onnxruntime.InferenceSession(str(path), options)
        self.inputs = [tensor(node) for node in self.session.get_inputs()]
        self.outputs = [tensor(node) for node in self.session.get_outputs()]

    def run(self, values):
        """Outputs by name, from inputs by name."""
        names = [name for name, *_ in self.outputs]
        return dict(zip(names, self.session.run(names, values), strict=True))


def tensor(node):
    datatype, dtype = TYPES[node.type]
    return node.name, datatype, dtype, list(node.shape)
