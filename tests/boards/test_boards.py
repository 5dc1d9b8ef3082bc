"""The product built for a board does what it does here: same files, same answers.

CUTLINE is the binary of this machine, CUTLINE_BOARD one of the board behind an emulator, which
takes some hundred times as long: the networks are small.
"""

import json
import os
import socket
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
HERE = os.environ["CUTLINE"]
BOARD = os.environ["CUTLINE_BOARD"]
SHARED = ROOT.parent / "shared" / "models"

WRITTEN = [("lenet5", "onnx", []), ("lenet5", "tflite", []), ("lenet5", "tflite", ["--quantize", "int8"])]
FOUND = [
    SHARED / "onnx" / "opt-mnist.onnx",
    SHARED / "tflite" / "pretrainedResnet.tflite",
    SHARED / "tflite" / "pretrainedResnet_quant.tflite",
]


def run(binary, *arguments):
    command = [binary, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stderr}"
    return done.stdout


def name_of(case):
    if isinstance(case, Path):
        return case.name
    name, extension, options = case
    return f"{name}{''.join(options)}.{extension}"


@pytest.fixture(params=[*WRITTEN, *FOUND], ids=name_of)
def model(request, tmp_path):
    """A model file, one of the zoo's as the board writes it."""
    if isinstance(request.param, Path):
        if not request.param.exists():
            pytest.skip(f"no {request.param.name} in the shared folder")
        return request.param
    name, extension, options = request.param
    file = tmp_path / f"board.{extension}"
    run(BOARD, "zoo", "write", name, "-o", file, *options)
    return file


def test_the_board_reads_models_as_this_machine_does(model):
    assert run(BOARD, "inspect", model, "--json") == run(HERE, "inspect", model, "--json")


@pytest.mark.parametrize("network", ["lenet5", "squeezenet", "mobilenetv2"])
def test_the_board_writes_the_same_networks(network, tmp_path):
    files = [tmp_path / "here.onnx", tmp_path / "board.onnx"]
    for binary, file in zip([HERE, BOARD], files):
        run(binary, "zoo", "write", network, "-o", file)
    assert files[0].read_bytes() == files[1].read_bytes()


def formats(model):
    return ["onnx", "tflite"] if model.suffix == ".tflite" else ["onnx"]


def test_the_board_splits_as_this_machine_does_and_its_parts_equal_the_whole(model, tmp_path):
    cuts = json.loads(run(HERE, "inspect", model, "--json"))["cuts"]
    for cut in {0: cuts[0], 1: cuts[len(cuts) // 2], 2: cuts[-1]}.values():
        for kind in formats(model):
            options = ["--format", kind] if kind == "tflite" else []
            folders = [tmp_path / f"{kind}-{side}" for side in ("here", "board")]
            for binary, folder in zip([HERE, BOARD], folders):
                run(binary, "split", model, "--at", ",".join(cut["values"]), *options, "-o", folder)
            same_files(*folders)
            outputs = json.loads(run(BOARD, "verify", model, folders[1], "--json"))["outputs"]
            assert outputs and all(output["max_abs_diff"] <= 1e-4 for output in outputs)


def same_files(first, second):
    names = [sorted(str(path.relative_to(folder)) for path in folder.rglob("*")) for folder in (first, second)]
    assert names[0] == names[1]
    for name in names[0]:
        if (first / name).is_file():
            assert (first / name).read_bytes() == (second / name).read_bytes(), name


@contextmanager
def agent(binary, folder):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = folder / f"agent-{port}.log"
    with log.open("w") as out:
        process = subprocess.Popen([binary, "agent", "--listen", f"127.0.0.1:{port}"], stdout=out, stderr=out)
    try:
        for _ in range(300):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None, log.read_text()
            time.sleep(0.1)
        yield f"127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


PLATFORM = """version = 1
[[device]]
name = "board"
preset = "rpi4"
address = "{board}"
[[device]]
name = "cloud"
preset = "rpi4"
address = "{cloud}"
[[link]]
between = ["board", "cloud"]
up = "20mbit"
delay = "1ms"
"""


def frames(model, folder):
    """Seeded inputs of a network with one input."""
    (value,) = json.loads(run(HERE, "inspect", model, "--json"))["inputs"]
    generator = np.random.default_rng(1)
    for number in range(3):
        if value["dtype"] == "FP32":
            tensor = generator.random(value["shape"], dtype=np.float32)
        else:
            kind = {"INT8": np.int8, "UINT8": np.uint8}[value["dtype"]]
            tensor = generator.integers(np.iinfo(kind).min, np.iinfo(kind).max, value["shape"], kind)
        np.save(folder / f"{number}.npy", tensor)
    return sorted(folder.glob("*.npy"))


def answers(*arguments):
    lines = [json.loads(line) for line in run(HERE, "run", *arguments, "--json").splitlines()]
    return [line["outputs"] for line in lines if "outputs" in line]


def test_the_board_runs_its_half_of_a_plan(model, tmp_path):
    cuts = json.loads(run(HERE, "inspect", model, "--json"))["cuts"]
    cut = ",".join(cuts[len(cuts) // 2]["values"])
    with agent(BOARD, tmp_path) as board, agent(HERE, tmp_path) as cloud:
        platform = tmp_path / "platform.toml"
        platform.write_text(PLATFORM.format(board=board, cloud=cloud))
        run(HERE, "split", model, "--at", cut, "--platform", platform, "-o", tmp_path / "split")
        arguments = [model, "--plan", tmp_path / "split" / "plan.json", "--input", *frames(model, tmp_path)]
        found = answers(*arguments)
    assert len(found) == 3
    for ours, theirs in zip(answers(*arguments, "--local"), found, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            assert one["name"] == other["name"]
            # Another processor's arithmetic: sums in another order.
            np.testing.assert_allclose(other["values"], one["values"], rtol=1e-4, atol=1e-4)
