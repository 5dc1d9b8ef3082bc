"""Python's tritonclient calls an edge agent and gets the whole network's answer."""

import json
import subprocess
import tempfile
import threading
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest
import support
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

# Largest difference between one engine's own answers, whole and split, relative to the largest
# value. Both engines compute halves as floats, and round what crosses a cut to a half again.
TOLERANCE = {"fp32": 1e-5, "fp16": 5e-3}
# Between two engines, which round in other places; only another answer differs more.
BETWEEN_ENGINES = {"fp32": 1e-4, "fp16": 5e-3}
ALONE = """
version = 1
[[device]]
name = "edge"
preset = "rpi4"
address = "{}"
"""
PLATFORM = """
version = 1
[[device]]
name = "edge"
address = "{}"
[[device]]
name = "cloud"
address = "{}"
[[link]]
between = ["edge", "cloud"]
up = "100mbit"
"""


@pytest.fixture(params=["rten", "onnxruntime"])
def engine(request):
    return request.param


@contextmanager
def agent(store, engine, *more):
    """The address of an agent, which ends with its standard input."""
    arguments = ["agent", "--listen", "127.0.0.1:0", "--threads", "1", "--engine", engine, "--json"]
    process = subprocess.Popen(
        [support.BINARY, *arguments, "--exit-with-stdin", "--store", str(store), *map(str, more)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield json.loads(process.stdout.readline())["listening"]
    finally:
        process.stdin.close()
        process.wait(30)


@contextmanager
def served(model, engine, cut=None):
    """A client of the edge agent, and the name there of the network: whole, or split at the cut."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as agents:
        folder = Path(folder)
        devices = ["edge", "cloud"] if cut else ["edge"]
        addresses = [agents.enter_context(agent(folder / name, engine)) for name in devices]
        platform = folder / "platform.toml"
        platform.write_text((PLATFORM if cut else ALONE).format(*addresses))
        plan = folder / "plan.json"
        if cut:
            parts = folder / "parts"
            how = ["--at", ",".join(cut), "--platform", platform, "-o", parts]
            support.cutline("split", model, *how)
            plan = parts / "plan.json"
        else:
            support.cutline("plan", model, "--platform", platform, "-o", plan)
        where = support.cutline_json("deploy", model, "--plan", plan)
        assert [stage["address"] for stage in where["stages"]] == addresses
        with triton.InferenceServerClient(addresses[0]) as client:
            yield client, where["model"]


def answer(client, name, values):
    """What the network answers, in the order that its metadata declare."""
    declared = [output.name for output in client.get_model_metadata(name).outputs]
    result = client.infer(name, list(inputs(client, name, values)))
    return {output: result.as_numpy(output) for output in declared}


def inputs(client, name, values):
    for tensor in client.get_model_metadata(name).inputs:
        data = values[tensor.name]
        assert list(tensor.shape) == list(data.shape), tensor.name
        request = triton.InferInput(tensor.name, data.shape, tensor.datatype)
        request.set_data_from_numpy(data)
        yield request


def small_cuts(model):
    cuts = support.cutline_json("inspect", model)["cuts"]
    cuts = [cut["values"] for cut in cuts if cut["bytes"] and cut["bytes"] <= 2_000_000]
    # Each takes two agents; that every cut leaves the answer as it is, `test_split.py` shows.
    return support.evenly(cuts, 3, thorough=12)


def test_a_split_answers_like_the_whole(model, engine):
    kind = "fp16" if "fp16" in model.name else "fp32"
    session = support.session(model)
    values = support.random_inputs(session)
    reference = support.run(session, values)
    with served(model, engine) as (client, name):
        whole = answer(client, name, values)
    same_engine = engine == "onnxruntime"
    support.assert_close(reference, whole, (TOLERANCE if same_engine else BETWEEN_ENGINES)[kind])
    for cut in small_cuts(model):
        with served(model, engine, cut) as (client, name):
            split = answer(client, name, values)
            assert list(split) == list(reference)
            support.assert_close(whole, split, TOLERANCE[kind])


@pytest.fixture(scope="module")
def lenet(tmp_path_factory):
    path = tmp_path_factory.mktemp("serving") / "lenet5.onnx"
    support.cutline("zoo", "write", "lenet5", "-o", path)
    return path


def test_the_protocol_as_tritonclient_speaks_it(lenet):
    values = support.random_inputs(support.session(lenet))
    with served(lenet, "rten", small_cuts(lenet)[0]) as (client, name):
        assert client.is_server_live() and client.is_server_ready()
        assert client.is_model_ready(name) and client.is_model_ready(name, "1")
        assert not client.is_model_ready("nothing") and not client.is_model_ready(name, "2")
        assert client.get_server_metadata().name == "cutline"
        request = list(inputs(client, name, values))

        traced = client.infer(name, request, request_id="7", parameters={"cutline.trace": True})
        response = traced.get_response()
        trace = json.loads(response.parameters["cutline.trace"].string_param)
        assert [stage["device"] for stage in trace["stages"]] == ["edge", "cloud"]
        assert (response.id, len(trace["hops"])) == ("7", 1)

        output = response.outputs[0].name
        typed = service_pb2.ModelInferRequest(model_name=name)
        for key, data in values.items():
            tensor = typed.inputs.add(name=key, datatype="FP32", shape=data.shape)
            tensor.contents.fp32_contents.extend(data.ravel().tolist())
        raw = client._client_stub.ModelInfer(typed).raw_output_contents[0]
        assert np.array_equal(np.frombuffer(raw, np.float32), traced.as_numpy(output).ravel())

        done, results = threading.Event(), []
        for _ in range(8):
            client.async_infer(
                name,
                request,
                lambda result, error: (
                    results.append((result, error)),
                    len(results) == 8 and done.set(),
                ),
            )
        assert done.wait(60)
        for result, error in results:
            assert error is None
            assert np.array_equal(result.as_numpy(output), traced.as_numpy(output))


def test_bad_requests_are_refused_with_reasons(lenet):
    values = support.random_inputs(support.session(lenet))
    with served(lenet, "rten", small_cuts(lenet)[0]) as (client, name):
        request = list(inputs(client, name, values))
        wrong = triton.InferInput(request[0].name(), [2, 2], "FP32")
        wrong.set_data_from_numpy(np.zeros((2, 2), np.float32))
        for model_name, tensors, options, words in [
            ("nothing", request, {}, "no model `nothing` is deployed"),
            (name, request, {"model_version": "3"}, "version `3` does not exist"),
            (name, [], {}, "is missing"),
            (name, [wrong], {}, "is FP32 2x2, expected FP32"),
            (name, request, {"outputs": [triton.InferRequestedOutput("ghost")]}, "`ghost` is none"),
        ]:
            with pytest.raises(InferenceServerException, match=words):
                client.infer(model_name, tensors, **options)
