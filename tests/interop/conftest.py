"""Models that the tests run over: those in the shared folder, and small ones of the zoo."""

import pytest

for package in ("numpy", "onnx", "onnxruntime", "tritonclient.grpc"):
    pytest.importorskip(package)

import support  # noqa: E402

SHARED_MODELS = [
    "squeezenet1.1_imagenet_fp32",
    "SqueezeNet_fp16",
    "resnet20_cifar10_fp32",
    "resnet32_cifar10_fp32",
    "version-RFB-320",
    "FastestDet",
    "opt-mnist",
]
ZOO_MODELS = ["lenet5", "squeezenet", "mobilenetv2", "resnet18"]
if support.EVERYTHING:
    ZOO_MODELS = [network["name"] for network in support.cutline_json("zoo", "list")]


@pytest.fixture(scope="session")
def zoo(tmp_path_factory):
    """Writes a network of the zoo once, and gives its path."""
    folder = tmp_path_factory.mktemp("zoo")

    def write(name):
        path = folder / f"{name}.onnx"
        if not path.exists():
            support.cutline("zoo", "write", name, "-o", path)
        return path

    return write


@pytest.fixture(params=[f"shared:{name}" for name in SHARED_MODELS] + [f"zoo:{name}" for name in ZOO_MODELS])
def model(request, zoo):
    source, name = request.param.split(":")
    if source == "zoo":
        return zoo(name)
    path = support.SHARED / f"{name}.onnx"
    if not path.exists():
        pytest.skip(f"{path.name} is not there: the shared folder is absent")
    return path
