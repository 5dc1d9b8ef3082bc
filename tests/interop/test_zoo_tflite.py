"""The zoo's networks as TFLite files: what LiteRT's interpreter and our own import of the file answer,
against ONNX Runtime on the same networks as ONNX."""

import json
import tempfile
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest
import support

litert = pytest.importorskip("ai_edge_litert.interpreter")

NETWORKS = ["lenet5", "squeezenet", "mobilenetv2", "mobilenetv3-small", "shufflenetv2", "resnet18"]
if support.EVERYTHING:
    NETWORKS = [network["name"] for network in support.cutline_json("zoo", "list")]

PICTURES = 8

# Largest difference of two computations in floats, relative to the largest output.
TOLERANCE = 1e-4

# Networks without training answer much alike, so that the very best class is a matter of luck: it has to
# be among the five best.
LEAST_COSINE = 0.99

# Networks whose random weights magnify: noise of 1 % on the input changes their answers by 26 to 47 % of
# their length, and those of ResNet-50, SqueezeNet and AlexNet by 3 to 7 %. Rounding to bytes is such a
# noise in every layer.
MAGNIFYING = {"vgg16": 0.8, "vgg19": 0.7, "inceptionv3": 0.9}

# One that does not magnify, and is 0.973 near all the same.
COARSE = {"efficientnet-b0": 0.96}

# Networks of whose integers our import has some otherwise than LiteRT, by few steps. In MobileNetV3 it
# begins at a HARD_SWISH, in DenseNet at one of 800,000 numbers of the first convolution, on one picture
# of three. All others have the very ones.
NEAR_LITERT = {"densenet121", "inceptionv3", "mobilenetv3-small", "efficientnet-b0"}

# A device whose times a preset estimates: its plan runs the whole network, in the engine that is built in.
PLATFORM = 'version = 1\n[[device]]\nname = "here"\npreset = "rpi4"\n'


def pictures(shape):
    random = np.random.default_rng(1)
    bound = np.sqrt(3).astype(np.float32)
    for _ in range(PICTURES):
        yield random.uniform(-bound, bound, shape).astype(np.float32)


def interpreter(path):
    found = litert.Interpreter(model_path=str(path), num_threads=1)
    found.allocate_tensors()
    return found


class Network:
    """A network of the zoo in a folder, each of its files written when it is first asked for."""

    def __init__(self, name: str, folder: Path):
        self.name, self.folder = name, folder

    def __repr__(self):
        return self.name

    def write(self, file, *options) -> Path:
        support.cutline("zoo", "write", self.name, "-o", self.folder / file, *options)
        return self.folder / file

    @cached_property
    def floats(self) -> Path:
        return self.write("floats.tflite")

    @cached_property
    def integers(self) -> Path:
        return self.write("integers.tflite", "--quantize", "int8")

    @cached_property
    def expected(self) -> list:
        """Every picture, its channels last, and what ONNX Runtime answers to it."""
        file = self.write("net.onnx")
        whole = support.session(file)
        [given] = whole.get_inputs()
        found = []
        for picture in pictures(given.shape):
            [answer] = whole.run(None, {given.name: picture})
            found.append((np.ascontiguousarray(picture.transpose(0, 2, 3, 1)), answer.ravel()))
        file.unlink()
        return found

    def asked(self, file) -> list:
        """The pictures as a TFLite file reads them, and its answers in LiteRT, both as they are stored."""
        lite = interpreter(file)
        [given], [made] = lite.get_input_details(), lite.get_output_details()
        found = []
        for picture, _ in self.expected:
            if given["dtype"] == np.int8:
                scale, zero = given["quantization"]
                picture = np.clip(np.round(picture / scale) + zero, -128, 127).astype(np.int8)
            lite.set_tensor(given["index"], picture)
            lite.invoke()
            found.append((picture, lite.get_tensor(made["index"]).ravel()))
        return found

    def imported(self, file, inputs) -> list:
        """What our own import of a TFLite file answers to tensors."""
        platform, plan = self.folder / "platform.toml", self.folder / "plan.json"
        platform.write_text(PLATFORM)
        support.cutline("plan", file, "--platform", platform, "-o", plan)
        names = [self.folder / f"{at}.npy" for at in range(len(inputs))]
        for name, tensor in zip(names, inputs, strict=True):
            np.save(name, tensor)
        said = support.cutline("run", file, "--plan", plan, "--local", "--json", "--input", *names)
        frames = [json.loads(line) for line in said.splitlines()]
        frames = sorted((frame for frame in frames if "frame" in frame), key=lambda frame: frame["frame"])
        return [np.array(frame["outputs"][0]["values"]) for frame in frames]


@pytest.fixture(scope="module", params=NETWORKS)
def network(request):
    """One network after the other: the files of the largest take a gigabyte, and are gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        yield Network(request.param, Path(folder))


def far(expected, answer) -> float:
    """The largest difference, relative to the largest output."""
    assert expected.shape == answer.shape
    return float(np.abs(answer - expected).max() / np.abs(expected).max())


def test_floats_in_litert_answer_as_the_onnx_file_does(network):
    pairs = zip(network.expected, network.asked(network.floats), strict=True)
    worst = max(far(expected, answer) for (_, expected), (_, answer) in pairs)
    print(f"{network}: floats in LiteRT within {worst:.1e}")
    assert worst <= TOLERANCE


def test_floats_that_we_import_answer_as_the_onnx_file_does(network):
    answers = network.imported(network.floats, [picture for picture, _ in network.expected])
    pairs = zip(network.expected, answers, strict=True)
    worst = max(far(expected, answer) for (_, expected), answer in pairs)
    print(f"{network}: floats imported within {worst:.1e}")
    assert worst <= TOLERANCE


def test_integers_answer_nearly_as_floats_do(network):
    lite = interpreter(network.integers)
    types = {detail["dtype"] for detail in lite.get_input_details() + lite.get_output_details()}
    assert types == {np.int8}
    scale, zero = lite.get_output_details()[0]["quantization"]
    cosines, near = [], 0
    for (_, expected), (_, stored) in zip(network.expected, network.asked(network.integers), strict=True):
        answer = (stored.astype(np.float32) - zero) * scale
        cosines.append(expected @ answer / np.linalg.norm(expected) / np.linalg.norm(answer))
        near += answer.argmax() in np.argsort(expected)[-5:]
    print(f"{network}: cosine {np.median(cosines):.4f}, {near} of {PICTURES} best among the five best")
    assert np.median(cosines) >= (MAGNIFYING | COARSE).get(network.name, LEAST_COSINE)
    assert near >= PICTURES - 1 or network.name in MAGNIFYING


def test_integers_that_we_import_are_those_of_litert(network):
    asked = network.asked(network.integers)
    answers = network.imported(network.integers, [picture for picture, _ in asked])
    steps = [np.abs(answer - stored) for (_, stored), answer in zip(asked, answers, strict=True)]
    steps = np.concatenate(steps)
    print(
        f"{network}: {(steps > 0).sum()} of {steps.size} integers are others, {(steps > 3).sum()} by "
        f"more than three steps, {steps.max():.0f} at most"
    )
    if network.name in NEAR_LITERT:
        assert (steps <= 3).mean() >= 0.99 and steps.max() <= 8
    else:
        assert steps.max() == 0


def test_the_same_name_and_seed_give_the_same_file(tmp_path):
    files = [tmp_path / "a.tflite", tmp_path / "b.tflite"]
    for path in files:
        support.cutline("zoo", "write", "lenet5", "-o", path, "--quantize", "int8", "--seed", "3")
    assert files[0].read_bytes() == files[1].read_bytes()
