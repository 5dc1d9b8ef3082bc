"""OpenTelemetry's own messages and server: what a collector learns of frames and requests."""

import subprocess
import threading
from collections import Counter
from concurrent import futures
from contextlib import ExitStack, contextmanager

import numpy as np
import pytest
import support
import test_serving
import tritonclient.grpc
import tritonclient.http

grpc = pytest.importorskip("grpc")
pytest.importorskip("opentelemetry.proto")

from opentelemetry.proto.collector.trace.v1 import (  # noqa: E402
    trace_service_pb2,
    trace_service_pb2_grpc,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status  # noqa: E402

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    def __init__(self):
        self.lock, self.spans = threading.Lock(), []

    def Export(self, request, context):
        for resource in request.resource_spans:
            about = {a.key: a.value.string_value for a in resource.resource.attributes}
            for scope in resource.scope_spans:
                assert scope.scope.name == "cutline" and scope.scope.version
                with self.lock:
                    self.spans += [(about, span) for span in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()

    def traces(self):
        """The spans of each trace, by its id."""
        traces = {}
        for about, span in self.spans:
            traces.setdefault(span.trace_id.hex(), []).append((about, span))
        return traces


@contextmanager
def collecting():
    """A collector, and its address."""
    collector = Collector()
    server = grpc.server(futures.ThreadPoolExecutor(4))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield collector, f"http://127.0.0.1:{port}"
    finally:
        server.stop(None)


@pytest.fixture(scope="module")
def lenet(tmp_path_factory):
    path = tmp_path_factory.mktemp("traces") / "lenet5.onnx"
    support.cutline("zoo", "write", "lenet5", "-o", path)
    return path


def split_on(agents, lenet, folder, url):
    """A plan of LeNet-5 in two stages, on two agents that tell the collector."""
    arguments = ["--otlp", url] if url else []
    addresses = [
        agents.enter_context(test_serving.agent(folder / name, "rten", *arguments))
        for name in ("edge", "cloud")
    ]
    platform, parts = folder / "platform.toml", folder / "parts"
    platform.write_text(test_serving.PLATFORM.format(*addresses))
    cut = ",".join(test_serving.small_cuts(lenet)[0])
    support.cutline("split", lenet, "--at", cut, "--platform", platform, "-o", parts)
    return addresses, parts / "plan.json"


def inputs(lenet, folder, frames):
    values = support.random_inputs(support.session(lenet))
    (name, tensor), = values.items()
    paths = [folder / f"frame{number}.npy" for number in range(frames)]
    for path in paths:
        np.save(path, tensor)
    return name, tensor, paths


def text(span, key):
    values = [a.value for a in span.attributes if a.key == key]
    return values[0].string_value or values[0].int_value if values else None


def tree(spans):
    """Each span with its parent, as service and name; asserts that times nest and ids are valid."""
    by_id = {span.span_id: (about, span) for about, span in spans}
    assert len(by_id) == len(spans)

    def name(about, span):
        return f"{about['service.name']} {span.name}"

    lines = []
    for about, span in spans:
        assert len(span.trace_id) == 16 and len(span.span_id) == 8 and any(span.span_id)
        assert span.flags & 1 and span.status.code == Status.STATUS_CODE_UNSET
        assert 0 < span.start_time_unix_nano <= span.end_time_unix_nano
        parent = by_id.get(span.parent_span_id)
        if parent:
            outer = parent[1]
            assert outer.start_time_unix_nano <= span.start_time_unix_nano, (outer, span)
            assert span.end_time_unix_nano <= outer.end_time_unix_nano, (outer, span)
        above = name(*parent) if parent else span.parent_span_id.hex()
        lines.append(f"{above} > {name(about, span)}".strip())
    return lines


def without_waiting(lines):
    """Nobody may have waited at all."""
    return sorted(line for line in lines if " queue " not in line)


def test_each_frame_is_one_trace_over_run_and_agents(lenet, tmp_path):
    with collecting() as (collector, url):
        with ExitStack() as agents:
            addresses, plan = split_on(agents, lenet, tmp_path, url)
            _, _, paths = inputs(lenet, tmp_path, 3)
            support.cutline("run", lenet, "--plan", plan, "--input", *paths, "--otlp", url)
        traces = collector.traces()
    assert len(traces) == 3 and "0" * 32 not in traces
    services = Counter()
    for spans in traces.values():
        services.update({about["service.instance.id"]: about for about, _ in spans}.keys())
        assert all(about["service.version"] for about, _ in spans)
        lines = without_waiting(tree(spans))
        assert lines == sorted(
            [
                "> cutline-run frame",
                "cutline-run frame > cutline-run call 0-edge",
                "cutline-run call 0-edge > cutline-agent infer 0-edge",
                "cutline-agent infer 0-edge > cutline-agent prepare 0-edge",
                "cutline-agent infer 0-edge > cutline-agent compute 0-edge",
                "cutline-agent infer 0-edge > cutline-agent call 1-cloud",
                "cutline-agent call 1-cloud > cutline-agent infer 1-cloud",
                "cutline-agent infer 1-cloud > cutline-agent compute 1-cloud",
                "cutline-run frame > cutline-run prepare 0-edge",
                "cutline-run frame > cutline-run compute 0-edge",
                "cutline-run frame > cutline-run send edge to cloud",
                "cutline-run frame > cutline-run compute 1-cloud",
                "cutline-run frame > cutline-run answer cloud to edge",
            ]
        )
        kinds = {span.name: span.kind for _, span in spans}
        for kind, names in {
            Span.SPAN_KIND_SERVER: ["infer 0-edge", "infer 1-cloud"],
            Span.SPAN_KIND_CLIENT: ["call 0-edge", "call 1-cloud"],
            Span.SPAN_KIND_INTERNAL: ["frame", "compute 0-edge", "send edge to cloud"],
        }.items():
            assert all(kinds[name] == kind for name in names)
        (call,) = [span for _, span in spans if span.name == "call 1-cloud"]
        address = f"{text(call, 'server.address')}:{text(call, 'server.port')}"
        assert (address, text(call, "rpc.method")) == (addresses[1], "ModelInfer")
    frames = [span for _, span in collector.spans if span.name == "frame"]
    assert {text(span, "cutline.input") for span in frames} == {str(path) for path in paths}
    assert len(services) == 3 and set(services.values()) == {3}, "three processes, each in all"


@pytest.mark.parametrize("client", [tritonclient.grpc, tritonclient.http])
def test_the_trace_of_a_client_goes_on(lenet, tmp_path, client):
    with collecting() as (collector, url):
        with ExitStack() as agents:
            addresses, plan = split_on(agents, lenet, tmp_path, url)
            model = support.cutline_json("deploy", lenet, "--plan", plan)["model"]
            name, value, _ = inputs(lenet, tmp_path, 0)
            tensor = client.InferInput(name, value.shape, "FP32")
            tensor.set_data_from_numpy(value)
            triton = agents.enter_context(client.InferenceServerClient(addresses[0]))
            for headers in [
                {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "vendor=opaque"},
                {"traceparent": f"00-{'1' * 32}-{PARENT}-00"},
                {"traceparent": f"00-{'0' * 32}-{PARENT}-01"},
            ]:
                triton.infer(model, [tensor], headers=headers)
        traces = collector.traces()
    assert len(traces) == 2 and "1" * 32 not in traces, "one is not sampled, one is malformed"
    ours = traces.pop(TRACE)
    lines = without_waiting(tree(ours))
    expected = [
        "{} > cutline-agent infer 0-edge",
        "cutline-agent call 1-cloud > cutline-agent infer 1-cloud",
        "cutline-agent infer 0-edge > cutline-agent call 1-cloud",
        "cutline-agent infer 0-edge > cutline-agent compute 0-edge",
        "cutline-agent infer 0-edge > cutline-agent prepare 0-edge",
        "cutline-agent infer 1-cloud > cutline-agent compute 1-cloud",
    ]
    assert lines == sorted(line.format(PARENT) for line in expected)
    assert {span.trace_state for _, span in ours} == {"vendor=opaque"}
    (anew,) = traces.values()
    assert without_waiting(tree(anew)) == sorted(line.format("").strip() for line in expected)


def run(lenet, plan, paths, *more):
    command = [support.BINARY, "run", lenet, "--plan", plan, "--input", *paths, *more, "--json"]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120)


def test_frames_do_not_need_their_collector(lenet, tmp_path):
    with ExitStack() as agents:
        _, plan = split_on(agents, lenet, tmp_path, None)
        _, _, paths = inputs(lenet, tmp_path, 4)
        # Nothing listens on port 1.
        done = run(lenet, plan, paths, "--otlp", "http://127.0.0.1:1")
        assert done.returncode == 0, done.stderr
        assert len(done.stdout.splitlines()) == 5, "four answers and a summary"
        assert done.stderr.count("127.0.0.1:1") == 1 and "frames go on" in done.stderr
        assert "spans did not reach the collector" in done.stderr
        local = run(lenet, plan, paths, "--local", "--otlp", "http://127.0.0.1:1")
        assert local.returncode == 0, local.stderr
        assert "spans did not reach the collector" in local.stderr


@pytest.mark.parametrize(
    "url, words",
    [
        ("http://ada:secret@127.0.0.1:4317", "password"),
        ("collector:4317", "http://"),
        ("http://127.0.0.1:4318/v1/traces", "path"),
    ],
)
def test_what_is_no_collector_is_said_before_anything_is_done(lenet, tmp_path, url, words):
    done = run(lenet, tmp_path / "absent.json", ["absent.npy"], "--otlp", url)
    assert done.returncode != 0
    assert words in done.stderr and "http://127.0.0.1:4317" in done.stderr
    assert "secret" not in done.stdout + done.stderr
