"""The zoo's networks as TFLite files, in LiteRT's interpreter, against the same networks as ONNX."""

import numpy as np
import pytest
import support

litert = pytest.importorskip("ai_edge_litert.interpreter")

NETWORKS = ["lenet5", "squeezenet", "mobilenetv2", "mobilenetv3-small", "shufflenetv2", "resnet18"]
if support.EVERYTHING:
    NETWORKS = [network["name"] for network in support.cutline_json("zoo", "list")]

PICTURES = 8

# Networks without training answer much alike, so that the very best class is a matter of luck: it has to
# be among the five best.
LEAST_COSINE = 0.99


@pytest.fixture(params=NETWORKS)
def network(request):
    return request.param


def pictures(shape):
    random = np.random.default_rng(1)
    bound = np.sqrt(3).astype(np.float32)
    for _ in range(PICTURES):
        yield random.uniform(-bound, bound, shape).astype(np.float32)


def interpreter(path):
    found = litert.Interpreter(model_path=str(path), num_threads=1)
    found.allocate_tensors()
    return found


def run(lite, picture):
    """The answer to a picture of rows, columns and channels, as floats."""
    [given], [made] = lite.get_input_details(), lite.get_output_details()
    if given["dtype"] == np.int8:
        scale, zero = given["quantization"]
        picture = np.clip(np.round(picture / scale) + zero, -128, 127).astype(np.int8)
    lite.set_tensor(given["index"], picture)
    lite.invoke()
    answer = lite.get_tensor(made["index"])
    if made["dtype"] == np.int8:
        scale, zero = made["quantization"]
        answer = (answer.astype(np.float32) - zero) * scale
    return answer.ravel()


def write(name, tmp_path, *options):
    path = tmp_path / f"{name}.tflite"
    support.cutline("zoo", "write", name, "-o", path, *options)
    return path


def answers(name, lite, zoo):
    """Those of both, picture by picture."""
    whole = support.session(zoo(name))
    [given] = whole.get_inputs()
    for picture in pictures(given.shape):
        [expected] = whole.run(None, {given.name: picture})
        yield expected.ravel(), run(lite, np.ascontiguousarray(picture.transpose(0, 2, 3, 1)))


def test_floats_answer_as_the_onnx_file_does(network, zoo, tmp_path):
    for expected, answer in answers(network, interpreter(write(network, tmp_path)), zoo):
        assert np.abs(answer - expected).max() <= 1e-4 * max(1, np.abs(expected).max())


def test_integers_answer_nearly_as_floats_do(network, zoo, tmp_path):
    lite = interpreter(write(network, tmp_path, "--quantize", "int8"))
    types = {detail["dtype"] for detail in lite.get_input_details() + lite.get_output_details()}
    assert types == {np.int8}
    cosines, near = [], 0
    for expected, answer in answers(network, lite, zoo):
        cosines.append(expected @ answer / np.linalg.norm(expected) / np.linalg.norm(answer))
        near += answer.argmax() in np.argsort(expected)[-5:]
    print(f"{network}: cosine {np.median(cosines):.4f}, {near} of {PICTURES} best among the five best")
    assert np.median(cosines) >= LEAST_COSINE
    assert near >= PICTURES - 1


def test_the_same_name_and_seed_give_the_same_file(tmp_path):
    files = [tmp_path / "a.tflite", tmp_path / "b.tflite"]
    for path in files:
        support.cutline("zoo", "write", "lenet5", "-o", path, "--quantize", "int8", "--seed", "3")
    assert files[0].read_bytes() == files[1].read_bytes()
