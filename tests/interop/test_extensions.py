"""tritonclient over HTTP and with TLS, Triton's extensions, and Triton's own load generator."""

import os
import shutil
import ssl
import subprocess
import urllib.request

import numpy as np
import pytest
import support
import test_serving
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException

CLIENTS = {"grpc": tritonclient.grpc, "http": tritonclient.http}


@pytest.fixture(scope="module")
def lenet(tmp_path_factory):
    path = tmp_path_factory.mktemp("extensions") / "lenet5.onnx"
    support.cutline("zoo", "write", "lenet5", "-o", path)
    return path


@pytest.fixture(params=CLIENTS)
def triton(request):
    return CLIENTS[request.param]


@pytest.fixture
def deployed(lenet, triton, tmp_path):
    """The whole network on an agent: its address, its name there, and its answer."""
    with test_serving.agent(tmp_path / "store", "rten") as address:
        yield address, *deploy(lenet, address, tmp_path)


def deploy(lenet, address, folder, identity=None):
    platform = folder / "platform.toml"
    platform.write_text(test_serving.ALONE.format(address))
    plan = folder / "plan.json"
    support.cutline("plan", lenet, "--platform", platform, "-o", plan)
    credentials = ["--identity", identity] if identity else []
    deployed = support.cutline_json("deploy", lenet, "--plan", plan, *credentials)
    whole = support.session(lenet)
    values = support.random_inputs(whole)
    return deployed["model"], values, support.run(whole, values)


def infer(triton, client, name, values, **binary):
    """The answer to `values`, by the client library's own means."""
    tensors = []
    for key, data in values.items():
        tensor = triton.InferInput(key, data.shape, "FP32")
        tensor.set_data_from_numpy(data, **{k: v for k, v in binary.items() if k == "binary_data"})
        tensors.append(tensor)
    result = client.infer(name, tensors, request_id="7")
    return {output["name"]: result.as_numpy(output["name"]) for output in outputs(result)}


def outputs(result):
    response = result.get_response()
    if isinstance(response, dict):
        return response["outputs"]
    return [{"name": output.name} for output in response.outputs]


def test_models_are_described_counted_unloaded_and_loaded(triton, deployed):
    address, name, values, expected = deployed
    as_json = {"as_json": True} if triton is tritonclient.grpc else {}
    with triton.InferenceServerClient(address) as client:
        config = client.get_model_config(name, **as_json)
        config = config.get("config", config)
        assert [i["data_type"] for i in config["input"]] == ["TYPE_FP32"]
        assert [int(d) for d in config["output"][0]["dims"]] == [1, 10]
        support.assert_close(expected, infer(triton, client, name, values), 1e-5)

        stats = client.get_inference_statistics(name, **as_json)["model_stats"][0]
        assert int(stats["inference_count"]) == 1
        assert int(stats["inference_stats"]["compute_infer"]["ns"]) > 0

        client.unload_model(name)
        assert not client.is_model_ready(name)
        with pytest.raises(InferenceServerException, match="it was unloaded"):
            infer(triton, client, name, values)
        index = client.get_model_repository_index(**as_json)
        index = index["models"] if isinstance(index, dict) else index
        assert [(model["name"], model["state"]) for model in index] == [(name, "UNAVAILABLE")]
        client.load_model(name)
        support.assert_close(expected, infer(triton, client, name, values), 1e-5)
        for order in [client.load_model, client.unload_model]:
            with pytest.raises(InferenceServerException, match="no model `nothing` is deployed"):
                order("nothing")


@pytest.mark.parametrize("triton", ["http"], indirect=True)
def test_tensors_travel_over_http_as_json_or_as_bytes(triton, deployed):
    address, name, values, expected = deployed
    with triton.InferenceServerClient(address) as client:
        answers = [infer(triton, client, name, values, binary_data=b) for b in (True, False)]
        for answer in answers:
            support.assert_close(expected, answer, 1e-5)
            support.assert_close(answers[0], answer, 0)
    with urllib.request.urlopen(f"http://{address}/metrics") as reply:
        assert f'cutline_stage_answered_total{{model="{name}"' in reply.read().decode()


def test_clients_show_certificates_and_only_controllers_give_orders(lenet, triton, tmp_path):
    issue = ["pki", "issue", "--identity", tmp_path / "controller", "--host", "127.0.0.1"]
    support.cutline("pki", "init", "--identity", tmp_path / "controller")
    support.cutline(*issue, "edge", "-o", tmp_path / "agent")
    support.cutline(*issue, "camera", "--role", "client", "-o", tmp_path / "client")
    own = ["--identity", tmp_path / "agent"]
    with test_serving.agent(tmp_path / "store", "rten", *own) as address:
        controller = tmp_path / "controller"
        name, values, expected = deploy(lenet, f"https://{address}", tmp_path, controller)
        with connect(triton, address, tmp_path / "client") as client:
            support.assert_close(expected, infer(triton, client, name, values), 1e-5)
            with pytest.raises(InferenceServerException, match="only a controller"):
                client.unload_model(name)
        with connect(triton, address, controller) as client:
            client.unload_model(name)
            assert not client.is_model_ready(name)
        with pytest.raises(Exception, match=r"(?i)ssl|tls|unavailable|socket|connection|alert"):
            connect(triton, address, None, tmp_path / "client" / "ca.pem").is_server_live()


def connect(triton, address, identity, authority=None):
    files = [authority or identity / "ca.pem"]
    files += [identity / "identity.pem", identity / "identity.key"] if identity else []
    if triton is tritonclient.grpc:
        names = ["root_certificates", "certificate_chain", "private_key"]
        options = dict(zip(names, map(str, files), strict=False))
        return triton.InferenceServerClient(address, ssl=True, **options)

    def context():
        context = ssl.create_default_context(cafile=files[0])
        if identity:
            context.load_cert_chain(*files[1:])
        return context

    return triton.InferenceServerClient(address, ssl=True, ssl_context_factory=context)


@pytest.mark.skipif(not os.environ.get("PERF_ANALYZER"), reason="PERF_ANALYZER names no program")
def test_perf_analyzer_measures_an_agent(triton, deployed):
    address, name, _, _ = deployed
    protocol = "grpc" if triton is tritonclient.grpc else "http"
    program = shutil.which(os.environ["PERF_ANALYZER"])
    arguments = ["-m", name, "-u", address, "-i", protocol, "--stability-percentage", "999"]
    counting = ["--measurement-mode", "count_windows", "--measurement-request-count", "200"]
    command = [program, *arguments, *counting, "--concurrency-range", "1:4"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    found = [line for line in done.stdout.splitlines() if line.startswith("Concurrency: ")]
    assert len(found) == 4 and all("infer/sec" in line for line in found), done.stdout
