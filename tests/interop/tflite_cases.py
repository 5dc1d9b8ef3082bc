"""Small TensorFlow Lite models of one operator, and what LiteRT answers to them.

`python tflite_cases.py FOLDER [FILE.tflite ...]` writes a folder for each model: `model.tflite`, and
for each run `N.in.K.npy` and `N.out.K.npy`; `cases.json` names inputs and outputs. With files named it
writes the same for those, on pictures of the shared folder and random inputs. A test in Rust runs them
on the engines.
"""

import json
import sys
from pathlib import Path

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as s
from ai_edge_litert.interpreter import Interpreter, OpResolverType

Op = s.BuiltinOperator
Act = s.ActivationFunctionType
TYPES = {
    np.dtype(np.float32): s.TensorType.FLOAT32,
    np.dtype(np.float16): s.TensorType.FLOAT16,
    np.dtype(np.int32): s.TensorType.INT32,
    np.dtype(np.int64): s.TensorType.INT64,
    np.dtype(np.uint8): s.TensorType.UINT8,
    np.dtype(np.int8): s.TensorType.INT8,
    np.dtype(np.bool_): s.TensorType.BOOL,
}
RUNS = 3


class Net:
    """A model under construction; tensors are indices."""

    def __init__(self, kind=np.float32, seed=0):
        self.kind = np.dtype(kind)
        self.random = np.random.default_rng(seed)
        self.graph = s.SubGraphT()
        self.graph.tensors, self.graph.operators = [], []
        self.graph.inputs, self.graph.outputs = [], []
        self.buffers, self.codes = [s.BufferT()], []

    @property
    def is_float(self):
        return self.kind == np.float32

    def tensor(self, shape, kind=None, scale=None, zero=0, axis=0, data=None):
        tensor = s.TensorT()
        tensor.shape, tensor.type = list(shape), TYPES[np.dtype(kind or self.kind)]
        tensor.name, tensor.buffer, tensor.hasRank = f"t{len(self.graph.tensors)}", 0, True
        if scale is not None:
            tensor.quantization = s.QuantizationParametersT()
            tensor.quantization.scale = np.atleast_1d(np.asarray(scale, np.float32))
            zeros = np.zeros(tensor.quantization.scale.shape, np.int64) + zero
            tensor.quantization.zeroPoint = zeros
            tensor.quantization.quantizedDimension = axis
        if data is not None:
            buffer = s.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)
            self.buffers.append(buffer)
            tensor.buffer = len(self.buffers) - 1
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def activation(self, shape, low=-2.0, high=2.0):
        """A tensor for values of that range, quantised where the net is."""
        if self.is_float:
            return self.tensor(shape)
        least = -128 if self.kind == np.int8 else 0
        scale = (high - low) / 255
        return self.tensor(shape, scale=scale, zero=int(round(least - low / scale)))

    def input(self, shape, low=-2.0, high=2.0):
        at = self.activation(shape, low, high)
        self.graph.inputs.append(at)
        return at

    def const(self, array, like=None):
        """Numbers as they are; floats are quantised as `like`, or over their range."""
        array = np.asarray(array)
        if array.dtype == np.float64:
            array = array.astype(np.float32)
        if self.is_float or array.dtype != np.float32:
            return self.tensor(array.shape, array.dtype, data=array)
        if like is not None:
            q = self.graph.tensors[like].quantization
            scale, zero = q.scale[0], q.zeroPoint[0]
        else:
            low, high = min(array.min(), 0), max(array.max(), 0.01)
            scale = (high - low) / 255
            zero = int(round((-128 if self.kind == np.int8 else 0) - low / scale))
        limits = np.iinfo(self.kind)
        stored = np.clip(np.round(array / scale) + zero, limits.min, limits.max)
        return self.tensor(array.shape, self.kind, scale, zero, data=stored.astype(self.kind))

    def weights(self, shape, axis, x, per_axis=True):
        """Random weights and the bias for them, per channel where signed."""
        real = self.random.standard_normal(shape).astype(np.float32) / 3
        count = shape[axis]
        bias = self.random.standard_normal(count).astype(np.float32)
        if self.is_float:
            return self.const(real), self.const(bias)
        scale_in = self.graph.tensors[x].quantization.scale[0]
        if self.kind == np.uint8:
            at = self.const(real)
            scale = self.graph.tensors[at].quantization.scale
        else:
            others = tuple(i for i in range(len(shape)) if i != axis)
            most = np.abs(real).max(axis=others) if per_axis else np.abs(real).max(keepdims=True).reshape(1)
            scale = most / 127
            view = [1] * len(shape)
            view[axis] = len(scale)
            stored = np.round(real / scale.reshape(view)).astype(np.int8)
            at = self.tensor(shape, np.int8, scale, 0, axis, stored)
        stored = np.round(bias / (scale * scale_in)).astype(np.int32)
        return at, self.tensor([count], np.int32, scale * scale_in, 0, 0, stored)

    def op(self, code, inputs, outputs, kind=None, **options):
        """Appends an operator; options are fields of the table of that kind."""
        for at, entry in enumerate(self.codes):
            if entry.builtinCode == code:
                break
        else:
            at, entry = len(self.codes), s.OperatorCodeT()
            entry.builtinCode, entry.version = code, 1
            entry.deprecatedBuiltinCode = min(code, 127)
            self.codes.append(entry)
        operator = s.OperatorT()
        operator.opcodeIndex, operator.inputs = at, inputs
        operator.outputs = outputs if isinstance(outputs, list) else [outputs]
        if kind:
            table = getattr(s, f"{kind}T")()
            for name, value in options.items():
                setattr(table, name, value)
            operator.builtinOptions = table
            operator.builtinOptionsType = getattr(s.BuiltinOptions, kind)
        self.graph.operators.append(operator)
        return outputs

    def version(self, code, version):
        for entry in self.codes:
            if entry.builtinCode == code:
                entry.version = version

    def finish(self, *outputs):
        self.graph.outputs = list(outputs)
        model = s.ModelT()
        model.version, model.operatorCodes, model.subgraphs = 3, self.codes, [self.graph]
        model.buffers, model.description = self.buffers, "case"
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


CASES = {}
KINDS = {"float": np.float32, "int8": np.int8, "uint8": np.uint8}


def case(*kinds, **variants):
    """Registers a function that builds a model, for each kind and each variant."""

    def register(build):
        for kind in kinds or KINDS:
            for name, arguments in (variants or {"": {}}).items():
                title = "-".join(part for part in (build.__name__, name, kind) if part)
                CASES[title] = (build, KINDS[kind], arguments)
        return build

    return register


def same(size, stride):
    return -(-size // stride)


@case(
    same={}, valid=dict(padding=1), strided=dict(stride=2), dilated=dict(dilation=2),
    even=dict(kernel=2, stride=2, size=7), relu6=dict(act=Act.RELU6), relu=dict(act=Act.RELU),
    clamp=dict(act=Act.RELU_N1_TO_1), point=dict(kernel=1), wide=dict(act=Act.RELU6, high=9.0),
)
def conv(net, kernel=3, stride=1, dilation=1, padding=0, act=Act.NONE, size=9, high=6.0):
    x = net.input([1, size, size + 1, 3])
    w, b = net.weights([5, kernel, kernel, 3], 0, x)
    reach = (kernel - 1) * dilation
    rows = [same(n, stride) if padding == 0 else same(n - reach, stride) for n in (size, size + 1)]
    y = net.activation([1, *rows, 5], -high, high)
    return net.finish(net.op(Op.CONV_2D, [x, w, b], y, "Conv2DOptions", padding=padding,
                             strideH=stride, strideW=stride, dilationHFactor=dilation,
                             dilationWFactor=dilation, fusedActivationFunction=act))


@case("float", "int8")
def conv_grouped(net):
    x = net.input([1, 6, 6, 4])
    w, b = net.weights([6, 3, 3, 2], 0, x)
    y = net.activation([1, 6, 6, 6], -6, 6)
    return net.finish(net.op(Op.CONV_2D, [x, w, b], y, "Conv2DOptions", padding=0, strideH=1,
                             strideW=1))


@case(same={}, strided=dict(stride=2), multiplied=dict(multiplier=3), dilated=dict(dilation=2),
      valid=dict(padding=1), relu6=dict(act=Act.RELU6))
def depthwise(net, stride=1, dilation=1, multiplier=1, padding=0, act=Act.NONE):
    x = net.input([1, 8, 9, 4])
    w, b = net.weights([1, 3, 3, 4 * multiplier], 3, x)
    reach = 2 * dilation
    rows = [same(n, stride) if padding == 0 else same(n - reach, stride) for n in (8, 9)]
    y = net.activation([1, *rows, 4 * multiplier], -5, 5)
    return net.finish(net.op(Op.DEPTHWISE_CONV_2D, [x, w, b], y, "DepthwiseConv2DOptions",
                             padding=padding, strideH=stride, strideW=stride,
                             depthMultiplier=multiplier, dilationHFactor=dilation,
                             dilationWFactor=dilation, fusedActivationFunction=act))


@case("float", "int8", same={}, valid=dict(padding=1), kernel2=dict(kernel=2), kernel4=dict(kernel=4),
      no_bias=dict(bias=False))
def transpose_conv(net, kernel=3, stride=2, padding=0, bias=True):
    x = net.input([1, 4, 5, 3])
    w, b = net.weights([6, kernel, kernel, 3], 0, x)
    rows = [n * stride if padding == 0 else (n - 1) * stride + kernel for n in (4, 5)]
    shape = [1, *rows, 6]
    y = net.activation(shape, -6, 6)
    inputs = [net.const(np.array(shape, np.int32)), w, x] + ([b] if bias else [])
    net.op(Op.TRANSPOSE_CONV, inputs, y, "TransposeConvOptions", padding=padding, strideH=stride,
           strideW=stride)
    net.version(Op.TRANSPOSE_CONV, 3)
    return net.finish(y)


@case(same={}, valid=dict(padding=1), big=dict(kernel=3), relu6=dict(act=Act.RELU6))
def average_pool(net, kernel=2, stride=2, padding=0, act=Act.NONE):
    return pooled(net, Op.AVERAGE_POOL_2D, kernel, stride, padding, act)


@case(same={}, valid=dict(padding=1), big=dict(kernel=3), relu=dict(act=Act.RELU))
def max_pool(net, kernel=2, stride=2, padding=0, act=Act.NONE):
    return pooled(net, Op.MAX_POOL_2D, kernel, stride, padding, act)


def pooled(net, code, kernel, stride, padding, act):
    x = net.input([1, 7, 6, 3])
    rows = [same(n, stride) if padding == 0 else same(n - kernel + 1, stride) for n in (7, 6)]
    y = net.activation([1, *rows, 3])
    return net.finish(net.op(code, [x], y, "Pool2DOptions", padding=padding, strideH=stride,
                             strideW=stride, filterHeight=kernel, filterWidth=kernel,
                             fusedActivationFunction=act))


@case(rows=dict(shape=[2, 12]), picture=dict(shape=[1, 2, 3, 2]), kept=dict(shape=[1, 3, 12], keep=True),
      relu=dict(shape=[1, 12], act=Act.RELU), no_bias=dict(shape=[1, 12], bias=False))
def fully_connected(net, shape, keep=False, act=Act.NONE, bias=True, per_axis=False):
    x = net.input(shape)
    w, b = net.weights([5, 12], 0, x, per_axis)
    rows = int(np.prod(shape)) // 12
    y = net.activation([*shape[:-1], 5] if keep else [rows, 5], -4, 4)
    net.op(Op.FULLY_CONNECTED, [x, w, b if bias else -1], y, "FullyConnectedOptions",
           keepNumDims=keep, fusedActivationFunction=act)
    net.version(Op.FULLY_CONNECTED, 5 if keep else 4)
    return net.finish(y)


@case("int8", rows=dict(shape=[2, 12]), picture=dict(shape=[1, 2, 3, 2]))
def fully_connected_per_channel(net, shape):
    return fully_connected(net, shape, per_axis=True)


@case()
def flattened_after_conv(net):
    x = net.input([1, 5, 4, 3])
    w, b = net.weights([6, 3, 3, 3], 0, x)
    h = net.op(Op.CONV_2D, [x, w, b], net.activation([1, 5, 4, 6], -5, 5), "Conv2DOptions",
               padding=0, strideH=1, strideW=1)
    flat = net.activation([1, 120], -5, 5)
    net.op(Op.RESHAPE, [h, net.const(np.array([1, 120], np.int32))], flat, "ReshapeOptions",
           newShape=[1, 120])
    w, b = net.weights([7, 120], 0, flat)
    return net.finish(net.op(Op.FULLY_CONNECTED, [flat, w, b], net.activation([1, 7], -20, 20),
                             "FullyConnectedOptions"))


@case()
def reshaped_after_conv(net):
    x = net.input([1, 4, 4, 3])
    w, b = net.weights([6, 3, 3, 3], 0, x)
    h = net.op(Op.CONV_2D, [x, w, b], net.activation([1, 4, 4, 6], -5, 5), "Conv2DOptions",
               padding=0, strideH=1, strideW=1)
    y = net.activation([1, 8, 12], -5, 5)
    return net.finish(net.op(Op.RESHAPE, [h, net.const(np.array([1, 8, 12], np.int32))], y,
                             "ReshapeOptions", newShape=[1, 8, 12]))


BINARY = {
    "add": (Op.ADD, "AddOptions"), "sub": (Op.SUB, "SubOptions"), "mul": (Op.MUL, "MulOptions"),
    "maximum": (Op.MAXIMUM, "MaximumMinimumOptions"),
    "minimum": (Op.MINIMUM, "MaximumMinimumOptions"),
}


@case(**{f"{name}_{other}": dict(name=name, other=other) for name in BINARY
         for other in ("tensor", "channels", "number")},
      add_relu=dict(name="add", other="tensor", act=Act.RELU),
      mul_relu6=dict(name="mul", other="channels", act=Act.RELU6))
def binary(net, name, other, act=None):
    code, kind = BINARY[name]
    x = net.input([1, 4, 5, 3])
    w, b = net.weights([3, 1, 1, 3], 0, x)
    # Behind a convolution, so that the operand is in another layout.
    h = net.op(Op.CONV_2D, [x, w, b], net.activation([1, 4, 5, 3], -3, 3), "Conv2DOptions",
               padding=0, strideH=1, strideW=1)
    like = h if name in ("maximum", "minimum") else None
    second = {
        "tensor": lambda: x if like is None else h,
        "channels": lambda: net.const(np.array([0.5, -1.25, 2.0], np.float32), like),
        "number": lambda: net.const(np.array(0.75, np.float32), like),
    }[other]()
    y = net.activation([1, 4, 5, 3], -6 if like is None else -3, 6 if like is None else 3)
    options = {} if act is None else dict(fusedActivationFunction=act)
    net.op(code, [h, second], y, kind, **options)
    net.version(code, 2)
    return net.finish(y)


@case("float")
def div(net):
    x = net.input([1, 4, 5, 3])
    y = net.const(np.linspace(0.5, 3, 3).astype(np.float32))
    return net.finish(net.op(Op.DIV, [x, y], net.activation([1, 4, 5, 3]), "DivOptions"))


@case("float")
def squared_difference(net):
    x = net.input([1, 4, 5, 3])
    y = net.const(np.linspace(0.5, 3, 3).astype(np.float32))
    return net.finish(net.op(Op.SQUARED_DIFFERENCE, [x, y], net.activation([1, 4, 5, 3]),
                             "SquaredDifferenceOptions"))


UNARY = {
    "logistic": (Op.LOGISTIC, (0.0, 255 / 256)), "tanh": (Op.TANH, (-1.0, 127 / 128)),
    "relu": (Op.RELU, (0.0, 2.0)), "relu6": (Op.RELU6, (0.0, 6.0)),
    "relu_n1_to_1": (Op.RELU_N1_TO_1, (-1.0, 1.0)),
    "hard_swish": (Op.HARD_SWISH, (-0.4, 2.0)), "elu": (Op.ELU, (-1.0, 2.0)),
}


@case(**{name: dict(name=name) for name in UNARY})
def unary(net, name):
    code, (low, high) = UNARY[name]
    if net.kind == np.uint8 and name == "elu":
        return None
    x = net.input([1, 4, 5, 3])
    if net.is_float or name not in ("logistic", "tanh"):
        y = net.activation([1, 4, 5, 3], low, high)
    else:
        zero = {"logistic": -128, "tanh": 0}[name] + (0 if net.kind == np.int8 else 128)
        scale = {"logistic": 1 / 256, "tanh": 1 / 128}[name]
        y = net.tensor([1, 4, 5, 3], scale=scale, zero=zero)
    return net.finish(net.op(code, [x], y))


PLAIN = {"exp": Op.EXP, "sqrt": Op.SQRT, "rsqrt": Op.RSQRT, "square": Op.SQUARE, "abs": Op.ABS,
         "neg": Op.NEG, "floor": Op.FLOOR, "ceil": Op.CEIL, "log": Op.LOG}


@case("float", **{name: dict(name=name) for name in PLAIN})
def function(net, name):
    x = net.input([1, 4, 5, 3])
    if name in ("sqrt", "rsqrt", "log"):
        x = net.op(Op.EXP, [x], net.activation([1, 4, 5, 3]))
    return net.finish(net.op(PLAIN[name], [x], net.activation([1, 4, 5, 3])))


@case(channels=dict(alpha=[1, 1, 3]), pixels=dict(alpha=[4, 5, 3]))
def prelu(net, alpha):
    x = net.input([1, 4, 5, 3])
    values = net.random.uniform(-0.2, 0.9, alpha).astype(np.float32)
    return net.finish(net.op(Op.PRELU, [x, net.const(values)], net.activation([1, 4, 5, 3])))


@case()
def leaky_relu(net):
    x = net.input([1, 4, 5, 3])
    y = net.activation([1, 4, 5, 3])
    net.op(Op.LEAKY_RELU, [x], y, "LeakyReluOptions", alpha=0.2)
    net.version(Op.LEAKY_RELU, 2)
    return net.finish(y)


@case(row=dict(shape=[1, 10]), beta=dict(shape=[1, 10], beta=0.5), picture=dict(shape=[1, 3, 4, 5]))
def softmax(net, shape, beta=1.0):
    x = net.input(shape, -6, 6)
    if net.is_float:
        y = net.tensor(shape)
    else:
        y = net.tensor(shape, scale=1 / 256, zero=-128 if net.kind == np.int8 else 0)
    net.op(Op.SOFTMAX, [x], y, "SoftmaxOptions", beta=beta)
    net.version(Op.SOFTMAX, 2)
    return net.finish(y)


@case("float")
def log_softmax(net):
    x = net.input([1, 10], -6, 6)
    return net.finish(net.op(Op.LOG_SOFTMAX, [x], net.activation([1, 10]), "LogSoftmaxOptions"))


@case(**{f"{name}_{''.join(map(str, axes))}_{keep}": dict(code=code, axes=axes, keep=keep)
         for name, code in {"mean": Op.MEAN, "sum": Op.SUM, "max": Op.REDUCE_MAX}.items()
         for axes in ([1, 2], [3], [1], [-1, 1]) for keep in (True, False)})
def reduced(net, code, axes, keep):
    x = net.input([1, 5, 4, 3], -3, 3)
    w, b = net.weights([3, 1, 1, 3], 0, x)
    h = net.op(Op.CONV_2D, [x, w, b], net.activation([1, 5, 4, 3], -3, 3), "Conv2DOptions",
               padding=0, strideH=1, strideW=1)
    gone = {at % 4 for at in axes}
    shape = [1 if at in gone else n for at, n in enumerate([1, 5, 4, 3]) if keep or at not in gone]
    high = 20 if code == Op.SUM else 3
    y = net.activation(shape, -high, high)
    net.op(code, [h, net.const(np.array(axes, np.int32))], y, "ReducerOptions", keepDims=keep)
    net.version(code, 2)
    return net.finish(y)


@case("float", "int8", "uint8", last=dict(axis=3), rows=dict(axis=1), negative=dict(axis=-1))
def arg_max(net, axis):
    x = net.input([1, 5, 4, 7])
    shape = [n for at, n in enumerate([1, 5, 4, 7]) if at != axis % 4]
    y = net.tensor(shape, np.int32)
    net.op(Op.ARG_MAX, [x, net.const(np.array(axis, np.int32))], y, "ArgMaxOptions",
           outputType=s.TensorType.INT32)
    net.version(Op.ARG_MAX, 2)
    return net.finish(y)


@case(channels=dict(axis=3), rows=dict(axis=1), negative=dict(axis=-2))
def concatenation(net, axis):
    x = net.input([1, 4, 4, 3])
    w, b = net.weights([3, 1, 1, 3], 0, x)
    h = net.op(Op.CONV_2D, [x, w, b], net.activation([1, 4, 4, 3]), "Conv2DOptions", padding=0,
               strideH=1, strideW=1)
    shape = [1, 4, 4, 3]
    shape[axis] *= 2
    y = net.activation(shape)
    net.op(Op.CONCATENATION, [h, x], y, "ConcatenationOptions", axis=axis)
    net.version(Op.CONCATENATION, 2)
    return net.finish(y)


@case(plain={}, valued=dict(code=Op.PADV2), mirrored=dict(code=Op.MIRROR_PAD))
def pad(net, code=Op.PAD):
    x = net.input([1, 4, 5, 3])
    more = 0 if code == Op.MIRROR_PAD else 1
    amounts = net.const(np.array([[0, 0], [1, 2], [3, 0], [0, more]], np.int32))
    y = net.activation([1, 7, 8, 3 + more])
    inputs, kind = [x, amounts], {Op.PAD: "PadOptions", Op.PADV2: "PadV2Options"}.get(code)
    if code == Op.PADV2:
        inputs.append(net.const(np.array([0.5], np.float32), x))
    options = {}
    if code == Op.MIRROR_PAD:
        kind, options = "MirrorPadOptions", dict(mode=s.MirrorPadMode.REFLECT)
    net.op(code, inputs, y, kind, **options)
    net.version(code, 1 if code == Op.MIRROR_PAD else 2)
    return net.finish(y)


@case()
def squeeze(net):
    x = net.input([1, 1, 5, 3])
    return net.finish(net.op(Op.SQUEEZE, [x], net.activation([1, 5, 3]), "SqueezeOptions",
                             squeezeDims=[1]))


@case()
def expand_dims(net):
    x = net.input([1, 5, 3])
    at = net.const(np.array(1, np.int32))
    return net.finish(net.op(Op.EXPAND_DIMS, [x, at], net.activation([1, 1, 5, 3]), "ExpandDimsOptions"))


@case(**{f"{mode}_{aligned}{centred}_{size}": dict(mode=mode, aligned=aligned, centred=centred, size=size)
         for mode in ("BILINEAR", "NEAREST_NEIGHBOR")
         for aligned, centred in ((0, 0), (1, 0), (0, 1)) for size in ((8, 10), (7, 3), (13, 4))})
def resize(net, mode, aligned, centred, size):
    x = net.input([1, 4, 5, 3])
    y = net.activation([1, *size, 3])
    kind = "ResizeBilinearOptions" if mode == "BILINEAR" else "ResizeNearestNeighborOptions"
    code = getattr(Op, f"RESIZE_{mode}")
    net.op(code, [x, net.const(np.array(size, np.int32))], y, kind, alignCorners=bool(aligned),
           halfPixelCenters=bool(centred))
    net.version(code, 3)
    return net.finish(y)


@case(plain=dict(begin=[0, 1, 0, 0], end=[1, 4, 5, 2], stride=[1, 1, 2, 1]),
      masked=dict(begin=[0, 1, 2, 1], end=[1, 2, 3, 2], stride=[1, 1, 1, 1], begin_mask=8, end_mask=6),
      backward=dict(begin=[0, -1, 4, 0], end=[1, 0, 0, 3], stride=[1, -1, -2, 1]),
      shrunk=dict(begin=[0, 2, 0, 0], end=[1, 3, 5, 3], stride=[1, 1, 1, 1], shrink=2),
      last=dict(begin=[0, 0, 0, -1], end=[1, 4, 5, 0], stride=[1, 1, 1, 1], shrink=8))
def strided_slice(net, begin, end, stride, begin_mask=0, end_mask=0, shrink=0):
    x = net.input([1, 4, 5, 3])
    w, b = net.weights([3, 1, 1, 3], 0, x)
    h = net.op(Op.CONV_2D, [x, w, b], net.activation([1, 4, 5, 3]), "Conv2DOptions", padding=0,
               strideH=1, strideW=1)
    index = []
    for at, n in enumerate([1, 4, 5, 3]):
        if shrink >> at & 1:
            index.append(begin[at])
            continue
        first = None if begin_mask >> at & 1 else begin[at]
        last = None if end_mask >> at & 1 else end[at]
        index.append(slice(first, last, stride[at]))
    shape = np.zeros([1, 4, 5, 3])[tuple(index)].shape
    y = net.activation(shape)
    lists = [net.const(np.array(part, np.int32)) for part in (begin, end, stride)]
    net.op(Op.STRIDED_SLICE, [h, *lists], y, "StridedSliceOptions", beginMask=begin_mask,
           endMask=end_mask, shrinkAxisMask=shrink)
    net.version(Op.STRIDED_SLICE, 2)
    return net.finish(y)


@case()
def sliced(net):
    x = net.input([1, 4, 5, 3])
    lists = [net.const(np.array(part, np.int32)) for part in ([0, 1, 2, 0], [1, 2, -1, 2])]
    y = net.activation([1, 2, 3, 2])
    net.op(Op.SLICE, [x, *lists], y, "SliceOptions")
    net.version(Op.SLICE, 2)
    return net.finish(y)


@case(channels=dict(axis=3), rows=dict(axis=1))
def split(net, axis):
    x = net.input([1, 4, 4, 6])
    shape = [1, 4, 4, 6]
    shape[axis] //= 2
    parts = [net.activation(shape), net.activation(shape)]
    net.op(Op.SPLIT, [net.const(np.array(axis, np.int32)), x], parts, "SplitOptions", numSplits=2)
    net.version(Op.SPLIT, 2)
    return net.finish(*parts)


@case("float", "int8")
def split_v(net):
    x = net.input([1, 4, 4, 6])
    parts = [net.activation([1, 4, 4, n]) for n in (1, 3, 2)]
    inputs = [x, net.const(np.array([1, 3, 2], np.int32)), net.const(np.array(3, np.int32))]
    net.op(Op.SPLIT_V, inputs, parts, "SplitVOptions", numSplits=3)
    net.version(Op.SPLIT_V, 2)
    return net.finish(*parts)


@case(first=dict(axis=0), last=dict(axis=3))
def pack(net, axis):
    parts = [net.input([4, 5, 3]), net.input([4, 5, 3])]
    shape = [4, 5, 3]
    shape.insert(axis, 2)
    y = net.activation(shape)
    net.op(Op.PACK, parts, y, "PackOptions", valuesCount=2, axis=axis)
    net.version(Op.PACK, 2)
    return net.finish(y)


@case(first=dict(axis=1), last=dict(axis=-1))
def unpack(net, axis):
    x = net.input([1, 2, 5, 2])
    shape = [n for at, n in enumerate([1, 2, 5, 2]) if at != axis % 4]
    parts = [net.activation(shape), net.activation(shape)]
    net.op(Op.UNPACK, [x], parts, "UnpackOptions", num=2, axis=axis)
    net.version(Op.UNPACK, 2)
    return net.finish(*parts)


@case(**{"".join(map(str, order)): dict(order=order)
         for order in ([0, 3, 1, 2], [0, 2, 1, 3], [3, 2, 1, 0], [0, 1, 2, 3])})
def transpose(net, order):
    x = net.input([1, 4, 5, 3])
    w, b = net.weights([3, 1, 1, 3], 0, x)
    h = net.op(Op.CONV_2D, [x, w, b], net.activation([1, 4, 5, 3]), "Conv2DOptions", padding=0,
               strideH=1, strideW=1)
    y = net.activation([[1, 4, 5, 3][at] for at in order])
    net.op(Op.TRANSPOSE, [h, net.const(np.array(order, np.int32))], y, "TransposeOptions")
    net.version(Op.TRANSPOSE, 2)
    return net.finish(y)


@case("int8", "uint8")
def quantize(net):
    x = net.tensor([1, 4, 5, 3], np.float32)
    net.graph.inputs.append(x)
    y = net.activation([1, 4, 5, 3])
    net.op(Op.QUANTIZE, [x], y, "QuantizeOptions")
    return net.finish(y)


@case("int8", "uint8")
def requantize(net):
    x = net.input([1, 4, 5, 3])
    other = np.uint8 if net.kind == np.int8 else np.int8
    y = net.tensor([1, 4, 5, 3], other, 0.02, 128 if other == np.uint8 else 3)
    net.op(Op.QUANTIZE, [x], y, "QuantizeOptions")
    net.version(Op.QUANTIZE, 2)
    return net.finish(y)


@case("int8", "uint8")
def dequantize(net):
    x = net.input([1, 4, 5, 3])
    y = net.tensor([1, 4, 5, 3], np.float32)
    net.op(Op.DEQUANTIZE, [x], y, "DequantizeOptions")
    net.version(Op.DEQUANTIZE, 2)
    return net.finish(y)


@case("float")
def half_weights(net):
    x = net.input([1, 6, 6, 3])
    half = net.tensor([5, 3, 3, 3], np.float16,
                      data=net.random.standard_normal([5, 3, 3, 3]).astype(np.float16))
    w = net.op(Op.DEQUANTIZE, [half], net.tensor([5, 3, 3, 3]), "DequantizeOptions")
    net.version(Op.DEQUANTIZE, 3)
    b = net.const(np.linspace(-1, 1, 5).astype(np.float32))
    return net.finish(net.op(Op.CONV_2D, [x, w, b], net.activation([1, 6, 6, 5]), "Conv2DOptions",
                             padding=0, strideH=1, strideW=1))


@case("float")
def cast(net):
    x = net.input([1, 4, 5, 3])
    y = net.tensor([1, 4, 5, 3], np.int32)
    return net.finish(net.op(Op.CAST, [x], y, "CastOptions", inDataType=s.TensorType.FLOAT32,
                             outDataType=s.TensorType.INT32))


@case("float", "int8")
def dilated_by_batches(net):
    x = net.input([1, 8, 8, 3])
    blocks, borders = net.const(np.array([2, 2], np.int32)), net.const(np.array([[2, 2], [2, 2]], np.int32))
    many = net.op(Op.SPACE_TO_BATCH_ND, [x, blocks, borders], net.activation([4, 6, 6, 3]),
                  "SpaceToBatchNDOptions")
    w, b = net.weights([1, 3, 3, 3], 3, x)
    h = net.op(Op.DEPTHWISE_CONV_2D, [many, w, b], net.activation([4, 4, 4, 3], -5, 5),
               "DepthwiseConv2DOptions", padding=1, strideH=1, strideW=1, depthMultiplier=1)
    none = net.const(np.array([[0, 0], [0, 0]], np.int32))
    net.op(Op.BATCH_TO_SPACE_ND, [h, blocks, none], y := net.activation([1, 8, 8, 3], -5, 5),
           "BatchToSpaceNDOptions")
    net.version(Op.SPACE_TO_BATCH_ND, 2), net.version(Op.BATCH_TO_SPACE_ND, 2)
    return net.finish(y)


@case("float", "int8", cropped={})
def batch_to_space(net):
    x = net.input([6, 3, 4, 2])
    inputs = [x, net.const(np.array([2, 3], np.int32)), net.const(np.array([[1, 0], [2, 1]], np.int32))]
    net.op(Op.BATCH_TO_SPACE_ND, inputs, y := net.activation([1, 5, 9, 2]), "BatchToSpaceNDOptions")
    net.version(Op.BATCH_TO_SPACE_ND, 2)
    return net.finish(y)


@case("float", "int8", "uint8")
def space_to_depth(net):
    x = net.input([1, 4, 6, 3])
    return net.finish(net.op(Op.SPACE_TO_DEPTH, [x], net.activation([1, 2, 3, 12]),
                             "SpaceToDepthOptions", blockSize=2))


@case("float", "int8", "uint8")
def depth_to_space(net):
    x = net.input([1, 2, 3, 12])
    return net.finish(net.op(Op.DEPTH_TO_SPACE, [x], net.activation([1, 4, 6, 3]),
                             "DepthToSpaceOptions", blockSize=2))


def interpreter(model: bytes) -> Interpreter:
    try:
        ready = Interpreter(model_content=model, num_threads=1)
        ready.allocate_tensors()
    except (RuntimeError, ValueError):
        # Without the delegate that takes operators over.
        kind = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        ready = Interpreter(model_content=model, num_threads=1, experimental_op_resolver_type=kind)
        ready.allocate_tensors()
    return ready


def answers(model: bytes, runs) -> list:
    """What LiteRT answers to each list of inputs."""
    ready, results = interpreter(model), []
    for inputs in runs:
        for port, value in zip(ready.get_input_details(), inputs, strict=True):
            ready.set_tensor(port["index"], value)
        ready.invoke()
        results.append([ready.get_tensor(port["index"]).copy() for port in ready.get_output_details()])
    return results


def random_input(port, random):
    kind = np.dtype(port["dtype"])
    if kind == np.float32:
        return random.uniform(-2, 2, port["shape"]).astype(kind)
    limits = np.iinfo(kind)
    return random.integers(limits.min, limits.max, port["shape"], endpoint=True).astype(kind)


def write(folder: Path, title: str, model: bytes, runs) -> dict:
    """Writes a case; its entry of `cases.json`."""
    ready = interpreter(model)
    place = folder / title
    place.mkdir(parents=True, exist_ok=True)
    (place / "model.tflite").write_bytes(model)
    if runs is None:
        random = np.random.default_rng(7)
        ports = ready.get_input_details()
        runs = [[random_input(port, random) for port in ports] for _ in range(RUNS)]
    for number, (inputs, outputs) in enumerate(zip(runs, answers(model, runs), strict=True)):
        for kind, tensors in (("in", inputs), ("out", outputs)):
            for at, tensor in enumerate(tensors):
                np.save(place / f"{number}.{kind}.{at}.npy", tensor)
    names = lambda ports: [port["name"] for port in ports]  # noqa: E731
    return {
        "name": title,
        "runs": len(runs),
        "inputs": names(ready.get_input_details()),
        "outputs": names(ready.get_output_details()),
    }


def pictures(shared: Path, port) -> list:
    """The photographs and small pictures of the shared folder as inputs of a model."""
    from PIL import Image

    _, height, width, _ = port["shape"]
    files = sorted((shared / "images").glob("**/*.jp*g")) + sorted((shared / "images").glob("*.png"))
    scale, zero = port["quantization"]
    runs = []
    for file in files:
        pixels = Image.open(file).convert("RGB").resize((int(width), int(height)))
        runs.append(np.asarray(pixels, np.float32)[None])
    if height == 32:
        runs = list(np.load(shared / "images" / "cifar_test_x.npy")[:, None] * 255)
        if port["dtype"] == np.float32:
            return [[value.astype(np.float32)] for value in runs]
        return [[(np.round(value) + zero).astype(port["dtype"])] for value in runs]
    real = [value / 127.5 - 1 for value in runs]
    if port["dtype"] == np.float32:
        return [[value.astype(np.float32)] for value in real]
    if scale < 0.005:
        real = [value / 255 for value in runs]
    limits = np.iinfo(port["dtype"])
    stored = [np.clip(np.round(value / scale) + zero, limits.min, limits.max) for value in real]
    return [[value.astype(port["dtype"])] for value in stored]


def main(folder: Path, files: list[Path]) -> None:
    entries = []
    for file in files:
        model = file.read_bytes()
        port = interpreter(model).get_input_details()[0]
        random = np.random.default_rng(3)
        runs = pictures(file.resolve().parents[2], port)
        runs += [[random_input(port, random)] for _ in range(RUNS)]
        entries.append(write(folder, file.stem, model, runs))
    for title, (build, kind, arguments) in {} if files else CASES.items():
        model = build(Net(kind, seed=sum(map(ord, title))), **arguments)
        if model is None:
            continue
        try:
            entries.append(write(folder, title, model, None))
        except (RuntimeError, ValueError) as error:
            print(f"LiteRT refuses {title}: {error}", file=sys.stderr)
    (folder / "cases.json").write_text(json.dumps(entries))


if __name__ == "__main__":
    # By its name, so that the cases of both files are in one table.
    import tflite_hard_cases

    tflite_hard_cases.main(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]])
