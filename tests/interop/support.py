"""What the interoperability tests share: the binary, models, onnxruntime, numbers."""

import json
import os
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

ROOT = Path(__file__).resolve().parents[2]
BINARY = os.environ.get("CUTLINE", str(ROOT / "target" / "debug" / "cutline"))
SHARED = ROOT.parent / "shared" / "models" / "onnx"

# Largest difference allowed, relative to the largest output.
TOLERANCE = {"fp32": 1e-5, "fp16": 2e-3}


def cutline(*arguments) -> str:
    """Runs the binary; its standard output, or an assertion with its standard error."""
    command = [BINARY, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stderr}"
    return done.stdout


def cutline_json(*arguments):
    return json.loads(cutline(*arguments, "--json"))


# Every candidate cut of every network in place of a few of some.
EVERYTHING = os.environ.get("CUTLINE_INTEROP") == "all"


def evenly(items: list, count: int, thorough: int | None = None) -> list:
    """At most `count` of the items, first and last among them; all where everything is wanted, or
    at most `thorough`."""
    if EVERYTHING:
        count = thorough or len(items)
    if len(items) <= count:
        return items
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]


def session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


NUMPY = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
    "tensor(bool)": np.bool_,
}


def random_inputs(
    whole: onnxruntime.InferenceSession, spread: float = 1, seed: int = 1
) -> dict[str, np.ndarray]:
    """The same seeded tensors every time; symbolic dimensions are 1."""
    generator = np.random.default_rng(seed)

    def tensor(node):
        shape = [dim if isinstance(dim, int) else 1 for dim in node.shape]
        return (generator.standard_normal(shape) * spread).astype(NUMPY[node.type])

    return {node.name: tensor(node) for node in whole.get_inputs()}


def run(model: onnxruntime.InferenceSession, values: dict[str, np.ndarray]) -> dict:
    """Runs a model on those of the values that it reads."""
    inputs = {node.name: values[node.name] for node in model.get_inputs()}
    names = [node.name for node in model.get_outputs()]
    return dict(zip(names, model.run(names, inputs), strict=True))


def chain(parts: list[Path], values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Runs the parts one after another, handing on every value by its name."""
    values = dict(values)
    for part in parts:
        values |= run(session(part), values)
    return values


def assert_close(expected: dict, actual: dict, tolerance: float) -> None:
    for name, whole in expected.items():
        part = actual[name]
        assert part.dtype == whole.dtype and part.shape == whole.shape, name
        if not np.issubdtype(whole.dtype, np.floating):
            assert (whole == part).all(), name
            continue
        scale = np.abs(whole.astype(np.float64)).max()
        difference = np.abs(whole.astype(np.float64) - part.astype(np.float64)).max()
        assert difference <= tolerance * max(scale, 1e-30), (
            f"{name}: differs by {difference}, largest value {scale}"
        )


@contextmanager
def split(model, *arguments):
    """The folder of the parts, which is gone afterwards: every cut of a large network fills disks."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        cutline("split", model, *arguments, "-o", out)
        yield out


def stages(directory: Path) -> list[Path]:
    """The stage folders of a split, in order."""
    folders = [path for path in directory.iterdir() if path.is_dir()]
    return sorted(folders, key=lambda path: int(path.name.split("-", 1)[0]))


def model_file(stage: Path) -> Path:
    return stage / "1" / "model.onnx"


def node_names(path: Path) -> set[str]:
    return {node.name for node in onnx.load(path, load_external_data=False).graph.node}
