"""Sub-models are ordinary ONNX files, and their folders ordinary Triton packages.

They pass the checker, run in ONNX Runtime, keep the names of the network, say which plan they
belong to, and give the whole network's answer when they are chained.
"""

import json

import numpy as np
import onnx
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

import support


def inputs(model, whole):
    # These networks read pixels of 0 to 255 less their mean; on noise of 1 all classes are alike.
    return support.random_inputs(whole, 64 if model.name.lower().startswith("squeezenet") else 1)


def cuts_of(model, count):
    return support.evenly(support.cutline_json("inspect", model)["cuts"], count)


def at(cut):
    return ",".join(cut["values"])


def test_parts_chained_equal_the_whole(model):
    whole = support.session(model)
    values = inputs(model, whole)
    expected = support.run(whole, values)
    tolerance = support.TOLERANCE["fp16" if "fp16" in model.name else "fp32"]
    cuts = cuts_of(model, 5)
    assert cuts, "a convolutional network has at least one candidate cut"
    for cut in cuts:
        with support.split(model, "--at", at(cut)) as out:
            parts = [support.model_file(stage) for stage in support.stages(out)]
            assert len(parts) == 2
            support.assert_close(expected, support.chain(parts, values), tolerance)


def test_three_stages_equal_the_whole(model):
    cuts = support.cutline_json("inspect", model)["cuts"]
    cuts = cuts[:: max(1, len(cuts) // 3)]
    if len(cuts) < 3:
        pytest.skip("too few cuts for three stages")
    whole = support.session(model)
    values = inputs(model, whole)
    tolerance = support.TOLERANCE["fp16" if "fp16" in model.name else "fp32"]
    with support.split(model, "--at", at(cuts[1]), "--at", at(cuts[2])) as out:
        parts = [support.model_file(stage) for stage in support.stages(out)]
        assert len(parts) == 3
        support.assert_close(support.run(whole, values), support.chain(parts, values), tolerance)


def test_parts_are_ordinary_onnx_files(model):
    for cut in cuts_of(model, 3):
        with support.split(model, "--at", at(cut)) as out:
            first, second = map(support.model_file, support.stages(out))
            for part in (first, second):
                onnx.checker.check_model(str(part), full_check=True)
                assert support.node_names(part) <= support.node_names(model)
                assert onnx.load(part, load_external_data=False).metadata_props
            made = {value.name for value in onnx.load(first).graph.output}
            read = {value.name for value in onnx.load(second).graph.input}
            assert set(cut["values"]) <= made
            assert set(cut["values"]) & read
            json.loads((out / "plan.json").read_text())


def pictures(model, whole, folder, count=4):
    """Inputs of the network as .npy files to calibrate on."""
    folder.mkdir()
    for index in range(count):
        spread = 64 if model.name.lower().startswith("squeezenet") else 1
        for values in support.random_inputs(whole, spread, seed=index).values():
            np.save(folder / f"{index}.npy", values)
    return folder


# Largest difference to the network, relative to its largest output: noise, on which ranges of bytes
# are wide, is what quantisation is worst at.
CODECS = {"fp16": 1e-2, "uint8": 0.35}


@pytest.mark.parametrize("codec", CODECS)
def test_compressed_cuts_are_ordinary_onnx_files(model, codec, tmp_path):
    whole = support.session(model)
    if len(whole.get_inputs()) != 1 or "fp16" in model.name:
        pytest.skip("no single input of fp32")
    cuts = support.cutline_json("inspect", model)["cuts"]
    kinds = {"fp16": np.float16, "uint8": np.uint8}
    calibrate = ["--calibrate", pictures(model, whole, tmp_path / "pictures")]
    values = inputs(model, whole)
    expected = support.run(whole, values)
    # The first candidate may be the network's input, which has encodings of its own.
    for cut in [cuts[len(cuts) // 3], cuts[2 * len(cuts) // 3]]:
        arguments = calibrate if codec == "uint8" else []
        with support.split(model, "--at", at(cut), "--codec", codec, *arguments) as out:
            parts = [support.model_file(stage) for stage in support.stages(out)]
            for part in parts:
                onnx.checker.check_model(str(part), full_check=True)
            names = [f"{value}.{codec}" for value in cut["values"]]
            made = support.run(support.session(parts[0]), values)
            assert all(made[name].dtype == kinds[codec] for name in names)
            sent = sum(made[name].nbytes for name in names)
            assert sent == cut["bytes"] // {"fp16": 2, "uint8": 4}[codec]
            assert set(names) <= {node.name for node in support.session(parts[1]).get_inputs()}
            support.assert_close(expected, support.chain(parts, values), CODECS[codec])


TRITON = {np.dtype(np.float32): "TYPE_FP32", np.dtype(np.float16): "TYPE_FP16", np.dtype(np.int64): "TYPE_INT64"}


def test_packages_are_triton_model_folders(model):
    cut = cuts_of(model, 3)[-1]
    with support.split(model, "--at", at(cut)) as out:
        for stage in support.stages(out):
            config = model_config_pb2.ModelConfig()
            text_format.Parse((stage / "config.pbtxt").read_text(), config)
            assert config.name == stage.name
            assert config.backend == "onnxruntime" or config.platform == "onnxruntime_onnx"
            part = support.session(support.model_file(stage))
            for declared, node in [
                *zip(config.input, part.get_inputs(), strict=True),
                *zip(config.output, part.get_outputs(), strict=True),
            ]:
                assert declared.name == node.name
                kind = model_config_pb2.DataType.Name(declared.data_type)
                assert kind == TRITON[np.dtype(support.NUMPY[node.type])]
                rank = len(node.shape) - (1 if config.max_batch_size > 0 else 0)
                assert len(declared.dims) == rank
