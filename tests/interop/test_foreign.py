"""The last stage of a plan on other people's servers: MLServer, KServe's Python server, Triton.

They come with many packages, in versions that exclude each other, and so each is in an environment
of its own, a folder of `CUTLINE_FOREIGN`; `foreign/SERVER.txt` says what it holds.
"""

import json
import os
import signal
import socket
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import support
import test_serving
import tritonclient.grpc
from tritonclient.utils import InferenceServerException

ENVIRONMENTS = os.environ.get("CUTLINE_FOREIGN")
CODE = Path(__file__).parent / "foreign"
# Frames of a run in which something happens.
FRAMES = 300
# How long a server may take to begin.
PATIENCE = 120
PLATFORM = """
version = 1
[[device]]
name = "edge"
address = "{}"
[[device]]
name = "cloud"
address = "127.0.0.1:{}"
server = "oip"
[[link]]
between = ["edge", "cloud"]
up = "100mbit"
"""

pytestmark = pytest.mark.skipif(not ENVIRONMENTS, reason="CUTLINE_FOREIGN names no folder")


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def mlserver(name, package, grpc_port, http_port, folder):
    model = folder / name
    model.mkdir(parents=True)
    settings = {"implementation": "mlserver_model.OnnxModel", "parameters": {"uri": str(package)}}
    (model / "model-settings.json").write_text(json.dumps({"name": name, **settings}))
    own = {"host": "127.0.0.1", "http_port": http_port, "grpc_port": grpc_port, "parallel_workers": 0}
    own |= {"metrics_port": free_ports(1)[0], "debug": False}
    (folder / "settings.json").write_text(json.dumps(own))
    return ["-c", "from mlserver.cli import main; main()", "start", str(folder)]


def kserve(name, package, grpc_port, http_port, _folder):
    return [str(CODE / "kserve_server.py"), name, str(package), str(grpc_port), str(http_port)]


def pytriton(name, package, grpc_port, http_port, _folder):
    return [str(CODE / "pytriton_server.py"), name, str(package), str(grpc_port), str(http_port)]


SERVERS = {"mlserver": mlserver, "kserve": kserve, "pytriton": pytriton}


@pytest.fixture(params=SERVERS)
def server(request):
    """Starts a server of a package under a name at a port, and waits until it is ready."""
    python = Path(ENVIRONMENTS) / request.param / "bin" / "python"
    if not python.exists():
        pytest.skip(f"{request.param} is not installed: there is no {python}")
    # Triton loads Python as a library: the system's, unless it is told of this one's.
    folder = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_config_var('LIBDIR'))"],
        capture_output=True,
        text=True,
        check=True,
    )
    own = {"PYTHONPATH": str(CODE), "OMP_NUM_THREADS": "1", "LD_LIBRARY_PATH": folder.stdout.strip()}

    @contextmanager
    def start(name, package, grpc_port, folder):
        command = SERVERS[request.param](name, package, grpc_port, free_ports(1)[0], folder)
        log = folder.with_suffix(".log")
        with open(log, "w") as output:
            process = subprocess.Popen(
                [python, *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **own},
                # Some servers are several processes, which are signalled together.
                start_new_session=True,
            )
        try:
            wait_until_ready(process, name, grpc_port, log)
            yield lambda number: os.killpg(process.pid, number)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    return start


def wait_until_ready(process, name, port, log):
    until = time.monotonic() + PATIENCE
    while True:
        try:
            with tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{port}") as client:
                if client.is_server_ready() and client.is_model_ready(name):
                    return
        except InferenceServerException:
            pass
        assert process.poll() is None and time.monotonic() < until, log.read_text()[-4000:]
        time.sleep(0.2)


def middle_cut(model):
    """A cut with one value, in the middle of the network."""
    cuts = support.cutline_json("inspect", model)["cuts"]
    single = [cut["values"] for cut in cuts if len(cut["values"]) == 1 and cut["bytes"]]
    return single[len(single) // 2]


def run(model, plan, *inputs):
    """Frames' lines and the summary, or what the command said against it."""
    command = ["run", model, "--plan", plan, "--input", *inputs, "--json", "--heartbeat", "200ms"]
    done = subprocess.run(
        [support.BINARY, *map(str, command)], capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    if done.returncode:
        return None, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()], done.stderr


@pytest.mark.parametrize("network", ["lenet5", "squeezenet"])
def test_a_foreign_server_has_the_last_stage(server, zoo, tmp_path, network):
    model = zoo(network)
    whole = support.session(model)
    frames = [support.random_inputs(whole, seed=seed) for seed in range(3)]
    for index, values in enumerate(frames):
        np.save(tmp_path / f"{index}.npy", *values.values())
    inputs = [tmp_path / f"{index}.npy" for index in range(len(frames))]
    (port,) = free_ports(1)
    with test_serving.agent(tmp_path / "store", "onnxruntime") as address:
        platform = tmp_path / "platform.toml"
        platform.write_text(PLATFORM.format(address, port))
        parts = tmp_path / "parts"
        at = ["--at", ",".join(middle_cut(model)), "--platform", platform, "-o", parts]
        support.cutline("split", model, *at)
        plan = parts / "plan.json"

        lines, said = run(model, plan, *inputs)
        assert lines is None and "no server listens there" in said and "folder `1-cloud`" in said

        with server("1-cloud", parts / "0-edge", port, tmp_path / "wrong"):
            lines, said = run(model, plan, *inputs)
            assert lines is None and "does not serve its stage" in said, said

        with server("1-cloud", parts / "1-cloud", port, tmp_path / "right"):
            lines, said = run(model, plan, *inputs)
            assert lines, said
            summary = lines.pop()
            assert summary["summary"]["answered"] == len(frames), summary
            assert summary["routing"]["by_fallback"] == 0, summary
            for line, values in zip(lines, frames, strict=True):
                expected = support.run(whole, values)
                support.assert_close(expected, tensors(line), 1e-5)
            deployed = support.cutline_json("deploy", model, "--plan", plan)
            assert [stage.get("foreign", False) for stage in deployed["stages"]] == [False, True]
            with tritonclient.grpc.InferenceServerClient(address) as client:
                answer = test_serving.answer(client, deployed["model"], frames[0])
                support.assert_close(support.run(whole, frames[0]), answer, 1e-5)


def tensors(line):
    """Outputs of a frame as the network declares them."""
    assert all(output["dtype"] == "FP32" for output in line["outputs"])
    arrays = line["outputs"]
    return {a["name"]: np.array(a["values"], np.float32).reshape(a["shape"]) for a in arrays}


def test_a_run_goes_on_while_the_foreign_server_is_stopped(server, zoo, tmp_path):
    model = zoo("lenet5")
    whole = support.session(model)
    values = support.random_inputs(whole)
    np.save(tmp_path / "0.npy", *values.values())
    expected = support.run(whole, values)
    (port,) = free_ports(1)
    with test_serving.agent(tmp_path / "store", "onnxruntime") as address:
        platform = tmp_path / "platform.toml"
        platform.write_text(PLATFORM.format(address, port))
        parts = tmp_path / "parts"
        at = ["--at", ",".join(middle_cut(model)), "--platform", platform, "-o", parts]
        support.cutline("split", model, *at)
        many = tmp_path / "many"
        many.mkdir()
        for index in range(FRAMES):
            (many / f"{index:04}.npy").symlink_to(tmp_path / "0.npy")
        plan = ["--plan", parts / "plan.json", "--input", many, "--rate", "20"]
        command = [support.BINARY, "run", model, *plan, "--json", "--heartbeat", "200ms"]
        with server("1-cloud", parts / "1-cloud", port, tmp_path / "served") as send:
            going = subprocess.Popen(
                list(map(str, command)), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
            )
            lines = [json.loads(going.stdout.readline()) for _ in range(20)]
            send(signal.SIGSTOP)
            lines += [json.loads(going.stdout.readline()) for _ in range(60)]
            send(signal.SIGCONT)
            lines += [json.loads(line) for line in going.stdout]
            assert going.wait(60) == 0
    summary = lines.pop()
    assert summary["summary"]["answered"] == FRAMES, summary
    for line in lines:
        support.assert_close(expected, tensors(line), 1e-5)
    routes = [line["route"] for line in lines]
    assert "here" in routes[20:80] and "here" not in {routes[0], routes[-1]}, routes
