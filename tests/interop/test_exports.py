"""What `cutline export` writes, in the hands of the tools that it is for.

Units go through `systemd-analyze verify` and `security`, manifests through `kubernetes-validate`
(the API's own schemas), repositories through the text format of Triton's own configuration message
and, chained as their ensemble says, through onnxruntime: Triton itself cannot be installed from a
package index. Neither can the Greengrass Development Kit, which alone carries a schema of recipes: the
rules that the recipe reference states are checked here, strictly, as far as our recipes go.
"""

import json
import re
import shutil
import subprocess

import jsonschema
import kubernetes_validate
import onnxruntime
import pytest
import support
import yaml
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

PLATFORM = """
version = 1
[[device]]
name = "pi"
address = "192.168.0.7:9001"
memory = "1GiB"
[[device]]
name = "Cloud #1 100%"
address = "10.0.0.1:9002"
replicas = ["10.0.0.2:9002"]
engine = "onnxruntime"
[[link]]
between = ["pi", "Cloud #1 100%"]
up = "20mbit"
"""
# The words of a recipe by which its own configuration and folders are named.
VARIABLE = re.compile(r"\{(artifacts:path|work:path|configuration:/(\w+))\}")


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    """A network in two parts for two devices: the model's path and the plan's."""
    folder = tmp_path_factory.mktemp("exports")
    model = folder / "net.onnx"
    support.cutline("zoo", "write", "lenet5", "-o", model)
    (folder / "platform.toml").write_text(PLATFORM)
    parts = folder / "parts"
    support.cutline("split", model, "--at", "pool1", "--platform", folder / "platform.toml", "-o", parts)
    return model, parts / "plan.json"


def export(output, *arguments):
    """The files of an export, which are all that is there, and the same every time."""
    written = support.cutline_json("export", *arguments, "-o", output)
    found = sorted(path for path in output.rglob("*") if path.is_file())
    assert sorted(output / name for name in written["files"]) == found
    before = [path.read_bytes() for path in found]
    support.cutline("export", *arguments, "-o", output)
    assert [path.read_bytes() for path in found] == before
    return found


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")
@pytest.mark.parametrize("more", [[], ["--mqtt", "mqtt://broker:1883"]])
def test_units_verify_and_are_confined(plan, tmp_path, more):
    binary = tmp_path / "odd name" / "cutline"
    binary.parent.mkdir()
    shutil.copy("/bin/true", binary)
    units = export(tmp_path / "units", "systemd", "--plan", plan[1], "--binary", binary, *more)
    assert [unit.name for unit in units] == [
        "cutline-agent-cloud--1-100.service",
        "cutline-agent-pi.service",
    ]
    verified = subprocess.run(
        ["systemd-analyze", "verify", *units], capture_output=True, text=True, check=False
    )
    words = [line for line in verified.stderr.splitlines() if "cutline-agent" in line]
    assert verified.returncode == 0 and not words, verified.stderr
    for unit in units:
        # 2.0 of 10: systemd itself calls that safe enough for a service that is on the network.
        checked = subprocess.run(
            ["systemd-analyze", "security", "--offline=true", "--threshold=20", unit],
            capture_output=True,
            text=True,
            check=False,
        )
        print(checked.stdout.strip().splitlines()[-1])
        assert checked.returncode == 0, checked.stdout + checked.stderr
    engines = [unit.read_text() for unit in units]
    assert "\nMemoryDenyWriteExecute=yes" not in engines[0], "onnxruntime may make code"
    assert "\nMemoryDenyWriteExecute=yes" in engines[1]


@pytest.mark.parametrize("more", [[], ["--insecure"], ["--namespace", "edge"]])
def test_manifests_validate_strictly(plan, tmp_path, more):
    [path] = export(tmp_path / "manifests", "kubernetes", "--plan", plan[1], *more)
    documents = list(yaml.safe_load_all(path.read_text()))
    assert [document["kind"] for document in documents] == ["Deployment", "Service"]
    version = kubernetes_validate.latest_version()
    for document in documents:
        kubernetes_validate.validate(document, version, strict=True)
    deployment, service = documents
    pod = deployment["spec"]["template"]
    assert deployment["spec"]["replicas"] == 2
    assert service["spec"]["selector"] == pod["metadata"]["labels"]
    [container] = pod["spec"]["containers"]
    assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["spec"]["volumes"]}
    # Who is asked over HTTP has to be one that answers strangers.
    probe = container["readinessProbe"]
    assert ("httpGet" in probe) == ("--insecure" in container["args"]) == ("--insecure" in more)
    # The arguments are those of an agent.
    broken = {**deployment, "spec": {**deployment["spec"], "replica": 1}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, version, strict=True)


def test_an_exported_agent_starts_and_says_over_http_that_it_is_ready(plan, tmp_path):
    [path] = export(tmp_path / "manifests", "kubernetes", "--plan", plan[1], "--insecure", "--device", "pi")
    deployment = next(yaml.safe_load_all(path.read_text()))
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    arguments = [tmp_path / "store" if word == "/var/lib/cutline" else word for word in container["args"]]
    arguments[arguments.index("--listen") + 1] = "127.0.0.1:0"
    arguments.remove("--insecure")
    command = [support.BINARY, *map(str, arguments), "--json", "--exit-with-stdin"]
    agent = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        address = json.loads(agent.stdout.readline())["listening"]
        import urllib.request

        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            where = container[probe]["httpGet"]["path"]
            with urllib.request.urlopen(f"http://{address}{where}", timeout=10) as answer:
                assert answer.status == 200
    finally:
        agent.communicate(timeout=20)


def configuration(path):
    return text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())


def test_a_repository_of_each_device_has_its_stages(plan, tmp_path):
    model, plan_file = plan
    files = export(tmp_path / "all", "triton", model, "--plan", plan_file)
    configs = [path for path in files if path.name == "config.pbtxt"]
    assert [path.parent.parent.name for path in configs] == ["cloud--1-100", "pi"]
    for path in configs:
        config = configuration(path)
        assert config.name == path.parent.name
        session = support.session(path.parent / "1" / "model.onnx")
        assert [value.name for value in config.input] == [node.name for node in session.get_inputs()]
        assert [value.name for value in config.output] == [node.name for node in session.get_outputs()]


def test_the_stages_chained_as_the_ensemble_says_are_the_network(plan, tmp_path):
    model, plan_file = plan
    export(tmp_path / "whole", "triton", model, "--plan", plan_file, "--ensemble", "LeNet")
    config = configuration(tmp_path / "whole" / "lenet" / "config.pbtxt")
    assert config.platform == "ensemble" and (tmp_path / "whole" / "lenet" / "1").is_dir()
    whole = support.session(model)
    values = support.random_inputs(whole)
    expected = support.run(whole, values)
    assert {value.name for value in config.input} == set(values)
    for step in config.ensemble_scheduling.step:
        part: onnxruntime.InferenceSession = support.session(
            tmp_path / "whole" / step.model_name / "1" / "model.onnx"
        )
        answers = part.run(None, {name: values[value] for name, value in step.input_map.items()})
        named = dict(zip((node.name for node in part.get_outputs()), answers, strict=True))
        values |= {value: named[name] for name, value in step.output_map.items()}
    assert {value.name for value in config.output} == set(expected)
    support.assert_close(expected, values, support.TOLERANCE["fp32"])


# What the recipe reference of AWS IoT Greengrass says, as far as our recipes go; nothing else is
# allowed in them.
NAME = {"type": "string", "pattern": "^[a-zA-Z0-9-_.]+$", "maxLength": 128}
PERMISSION = {"enum": ["NONE", "OWNER", "ALL"]}
RECIPE = {
    "type": "object",
    "additionalProperties": False,
    "required": ["RecipeFormatVersion", "ComponentName", "ComponentVersion", "Manifests"],
    "properties": {
        "RecipeFormatVersion": {"const": "2020-01-25"},
        "ComponentName": NAME,
        "ComponentVersion": {"type": "string", "pattern": r"^\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?$", "maxLength": 64},
        "ComponentType": {"const": "aws.greengrass.generic"},
        "ComponentDescription": {"type": "string"},
        "ComponentPublisher": {"type": "string"},
        "ComponentConfiguration": {
            "type": "object",
            "additionalProperties": False,
            "properties": {"DefaultConfiguration": {"type": "object"}},
        },
        "Manifests": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["Platform", "Lifecycle", "Artifacts"],
                "properties": {
                    "Platform": {
                        "type": "object",
                        "additionalProperties": False,
                        "properties": {
                            "os": {"enum": ["linux", "darwin", "windows", "*"]},
                            "architecture": {"enum": ["amd64", "aarch64", "arm", "x86", "*"]},
                        },
                    },
                    "Lifecycle": {
                        "type": "object",
                        "additionalProperties": False,
                        "required": ["run"],
                        "properties": {
                            "run": {
                                "type": "object",
                                "additionalProperties": False,
                                "required": ["Script"],
                                "properties": {"Script": {"type": "string", "minLength": 1}},
                            }
                        },
                    },
                    "Artifacts": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "additionalProperties": False,
                            "required": ["URI"],
                            "properties": {
                                "URI": {"type": "string", "pattern": "^(s3|greengrass|docker)[:]"},
                                "Permission": {
                                    "type": "object",
                                    "additionalProperties": False,
                                    "properties": {"Read": PERMISSION, "Execute": PERMISSION},
                                },
                            },
                        },
                    },
                },
            },
        },
    },
}


def test_recipes_keep_to_their_reference(plan, tmp_path):
    arguments = ["greengrass", "--plan", plan[1], "--artifacts", "s3://ours/cutline/"]
    recipes = export(tmp_path / "recipes", *arguments)
    assert len(recipes) == 2
    check = jsonschema.Draft202012Validator(RECIPE)
    for path in recipes:
        # At most 16 000 bytes are taken of a recipe.
        assert path.stat().st_size <= 16_000
        recipe = json.loads(path.read_text())
        assert not list(check.iter_errors(recipe))
        assert path.name == f"{recipe['ComponentName']}-{recipe['ComponentVersion']}.json"
        configured = recipe["ComponentConfiguration"]["DefaultConfiguration"]
        for manifest in recipe["Manifests"]:
            [artifact] = manifest["Artifacts"]
            assert artifact["URI"].startswith("s3://ours/cutline/") and "//" not in artifact["URI"][5:]
            script = manifest["Lifecycle"]["run"]["Script"]
            assert "{" not in VARIABLE.sub("", script), "a variable that recipes do not have"
            named = {key for _, key in VARIABLE.findall(script) if key}
            assert named == set(configured)
            # The shell reads it as the arguments that an agent takes.
            shown = VARIABLE.sub("x", script.replace("exec {artifacts:path}/cutline", support.BINARY))
            helped = subprocess.run(["sh", "-c", f"{shown} --help"], capture_output=True, check=False)
            assert helped.returncode == 0, helped.stderr
    recipe["Manifests"][0]["Lifecycle"]["Run"] = "echo"
    assert list(check.iter_errors(recipe))


def test_nothing_is_written_beside_what_somebody_else_wrote(plan, tmp_path):
    output = tmp_path / "mine"
    output.mkdir()
    (output / "notes.txt").write_text("mine")
    command = [support.BINARY, "export", "systemd", "--plan", plan[1], "-o", output]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0 and "notes.txt" in done.stderr
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["notes.txt"]
