"""More models of few operators, where converters err: borders, strides, axes, outputs that are read."""

from tflite_cases import CASES, Act, Net, Op, case, main, np, s, same

__all__ = ["CASES", "main"]


def pointwise(net: Net, x, shape, out=None, high=5.0):
    """Behind it, values are in another layout."""
    out = out or shape[3]
    w, b = net.weights([out, 1, 1, shape[3]], 0, x)
    y = net.activation([*shape[:3], out], -high, high)
    return net.op(Op.CONV_2D, [x, w, b], y, "Conv2DOptions", padding=0, strideH=1, strideW=1)


@case(**{f"kernel{k}_stride{n}_{'valid' if p else 'same'}": dict(kernel=k, stride=n, padding=p)
         for k in (1, 2, 3, 4, 5) for n in (1, 2, 3, 4) for p in (0, 1)})
def windows(net, kernel, stride, padding):
    x = net.input([2, 8, 7, 3])
    rows = [same(n, stride) if padding == 0 else same(n - kernel + 1, stride) for n in (8, 7)]
    shared = dict(padding=padding, strideH=stride, strideW=stride)
    pool = dict(filterHeight=kernel, filterWidth=kernel, **shared)
    w, b = net.weights([4, kernel, kernel, 3], 0, x)
    conv = net.op(Op.CONV_2D, [x, w, b], net.activation([2, *rows, 4], -6, 6), "Conv2DOptions", **shared)
    w, b = net.weights([1, kernel, kernel, 6], 3, x)
    depthwise = net.op(Op.DEPTHWISE_CONV_2D, [x, w, b], net.activation([2, *rows, 6], -5, 5),
                       "DepthwiseConv2DOptions", depthMultiplier=2, **shared)
    pools = [net.op(code, [x], net.activation([2, *rows, 3]), "Pool2DOptions", **pool)
             for code in (Op.AVERAGE_POOL_2D, Op.MAX_POOL_2D)]
    return net.finish(conv, depthwise, *pools)


@case(**{f"{high}_by_{wide}": dict(high=high, wide=wide) for high, wide in ((1, 2), (2, 1), (3, 1))})
def uneven_strides(net, high, wide):
    x = net.input([1, 9, 7, 3])
    w, b = net.weights([4, 3, 5, 3], 0, x)
    rows, shared = [same(9, high), same(7, wide)], dict(padding=0, strideH=high, strideW=wide)
    y = net.op(Op.CONV_2D, [x, w, b], net.activation([1, *rows, 4], -6, 6), "Conv2DOptions", **shared)
    pool = net.op(Op.AVERAGE_POOL_2D, [x], net.activation([1, *rows, 3]), "Pool2DOptions",
                  filterHeight=2, filterWidth=3, **shared)
    return net.finish(y, pool)


@case("float", "int8", **{f"kernel{k}_stride{n}_{'valid' if p else 'same'}": dict(kernel=k, stride=n, padding=p)
                          for k in (1, 2, 3, 4, 5) for n in (1, 2, 3) for p in (0, 1)},
      odd=dict(kernel=3, stride=2, padding=0, rows=[7, 9]),
      even=dict(kernel=3, stride=2, padding=0, rows=[7, 10]))
def transposed(net, kernel, stride, padding, rows=None):
    x = net.input([2, 4, 5, 3])
    w, b = net.weights([6, kernel, kernel, 3], 0, x)
    rows = rows or [n * stride if padding == 0 else (n - 1) * stride + kernel for n in (4, 5)]
    y = net.activation([2, *rows, 6], -6, 6)
    shape = net.const(np.array([2, *rows, 6], np.int32))
    net.op(Op.TRANSPOSE_CONV, [shape, w, x, b], y, "TransposeConvOptions", padding=padding,
           strideH=stride, strideW=stride)
    net.version(Op.TRANSPOSE_CONV, 3)
    return net.finish(y)


@case("float", **{f"{mode}_{aligned}{centred}_{old}_to_{new}": dict(mode=mode, aligned=aligned, centred=centred,
                                                                  old=old, new=new)
                  for mode in ("BILINEAR", "NEAREST_NEIGHBOR") for aligned, centred in ((0, 0), (1, 0), (0, 1))
                  for old in (1, 3, 7, 10) for new in (1, 2, 5, 6, 9, 49)})
def resized(net, mode, aligned, centred, old, new):
    x, y = net.input([1, old, old, 2]), net.activation([1, new, new, 2])
    kind = "ResizeBilinearOptions" if mode == "BILINEAR" else "ResizeNearestNeighborOptions"
    net.op(getattr(Op, f"RESIZE_{mode}"), [x, net.const(np.array([new, new], np.int32))], y, kind,
           alignCorners=bool(aligned), halfPixelCenters=bool(centred))
    net.version(getattr(Op, f"RESIZE_{mode}"), 3)
    return net.finish(y)


@case("float", "int8",
      masked_and_shrunk=dict(begin=[0, 2, 0, 0], end=[1, 3, 5, 3], shape=[1, 5, 3], begin_mask=2, shrink=2),
      from_the_end=dict(begin=[0, -2, 1, 0], end=[1, 2, 2, 3], shape=[1, 2, 2, 3], offset=True),
      from_the_start=dict(begin=[0, 1, 1, 0], end=[1, 2, 2, 3], shape=[1, 2, 2, 3], offset=True),
      masked_offset=dict(begin=[0, 3, 1, 0], end=[1, 2, 2, 3], shape=[1, 2, 2, 3], begin_mask=2, offset=True),
      beyond=dict(begin=[0, -9, 1, 0], end=[1, 99, 99, 3], shape=[1, 4, 4, 3]),
      backward_masked=dict(begin=[0, 0, 0, 0], end=[1, 0, 0, 3], shape=[1, 4, 3, 3], stride=[1, -1, -2, 1],
                           begin_mask=6, end_mask=6),
      backward=dict(begin=[0, -1, -1, 0], end=[1, -3, -5, 3], shape=[1, 2, 2, 3], stride=[1, -1, -2, 1]),
      short=dict(begin=[0, 1], end=[1, 3], shape=[1, 2, 5, 3]),
      short_shrunk=dict(begin=[0, 1], end=[1, 3], shape=[5, 3], shrink=3),
      two_shrunk=dict(begin=[0, 1, 0, -2], end=[1, 3, 5, 0], shape=[1, 5], shrink=10),
      channels=dict(begin=[0, 0, 0, 2], end=[1, 4, 5, 0], shape=[1, 4, 5, 2], stride=[1, 1, 1, -1]))
def hard_slice(net, begin, end, shape, stride=None, begin_mask=0, end_mask=0, shrink=0, offset=False):
    x = net.input([1, 4, 5, 3])
    h = pointwise(net, x, [1, 4, 5, 3], high=2)
    y = net.activation(shape)
    lists = (begin, end, stride or [1] * len(begin))
    lists = [net.const(np.array(part, np.int32)) for part in lists]
    net.op(Op.STRIDED_SLICE, [h, *lists], y, "StridedSliceOptions", beginMask=begin_mask, endMask=end_mask,
           shrinkAxisMask=shrink, offset=offset)
    net.version(Op.STRIDED_SLICE, 8 if offset else 2)
    return net.finish(y)


@case()
def weights_as_outputs(net):
    x = net.input([1, 4, 5, 3])
    w, b = net.weights([6, 2, 3, 3], 0, x)
    y = net.activation([1, 4, 5, 6], -5, 5)
    net.op(Op.CONV_2D, [x, w, b], y, "Conv2DOptions", padding=0, strideH=1, strideW=1)
    return net.finish(y, w, b)


@case()
def input_as_output(net):
    x = net.input([1, 4, 5, 3])
    return net.finish(pointwise(net, x, [1, 4, 5, 3]), x)


@case()
def outputs_read_inside(net):
    x = net.input([1, 4, 5, 3])
    h = pointwise(net, x, [1, 4, 5, 3])
    y = pointwise(net, h, [1, 4, 5, 3], high=9)
    z = net.op(Op.ADD, [h, y], net.activation([1, 4, 5, 3], -12, 12), "AddOptions")
    return net.finish(y, h, z)


@case()
def unused_input(net):
    x = net.input([1, 4, 5, 3])
    net.input([2, 3])
    return net.finish(pointwise(net, x, [1, 4, 5, 3]))


@case("float", "int8")
def five_axes(net):
    shape = [2, 2, 3, 4, 3]
    x, steps = net.input(shape), net.const(np.array([0.5, 1, 2], np.float32))
    y = net.op(Op.ADD, [x, steps], net.activation(shape, -4, 4), "AddOptions")
    turned = net.op(Op.TRANSPOSE, [y, net.const(np.array([0, 2, 1, 3, 4], np.int32))],
                    net.activation([2, 3, 2, 4, 3], -4, 4), "TransposeOptions")
    both = net.op(Op.CONCATENATION, [y, y], net.activation([2, 2, 3, 4, 6], -4, 4), "ConcatenationOptions", axis=4)
    net.version(Op.CONCATENATION, 2)
    return net.finish(turned, both)


@case("float", "int8")
def mean_of_everything(net):
    x = net.input([1, 4, 5, 3], -3, 3)
    h = pointwise(net, x, [1, 4, 5, 3], high=3)
    y = net.activation([], -3, 3)
    net.op(Op.MEAN, [h, net.const(np.array([0, 1, 2, 3], np.int32))], y, "ReducerOptions", keepDims=False)
    net.version(Op.MEAN, 2)
    return net.finish(y)


@case("float", "int8")
def broadcasts(net):
    x, c, d, e = (net.input(shape) for shape in ([1, 4, 5, 3], [5, 3], [4, 1, 1], [1, 4, 1, 3]))
    h, shape = pointwise(net, x, [1, 4, 5, 3]), [1, 4, 5, 3]
    added = net.op(Op.ADD, [c, h], net.activation(shape, -8, 8), "AddOptions")
    times = net.op(Op.MUL, [h, d], net.activation(shape, -8, 8), "MulOptions")
    minus = net.op(Op.SUB, [e, h], net.activation(shape, -8, 8), "SubOptions")
    return net.finish(added, times, minus)


@case("float", "int8")
def batch_of_rows(net):
    x = net.input([3, 5, 4, 3])
    h = pointwise(net, x, [3, 5, 4, 3], 6)
    flat = net.op(Op.RESHAPE, [h, net.const(np.array([3, 120], np.int32))], net.activation([3, 120], -5, 5),
                  "ReshapeOptions", newShape=[3, 120])
    w, b = net.weights([7, 120], 0, flat, per_axis=False)
    y = net.op(Op.FULLY_CONNECTED, [flat, w, b], net.activation([3, 7], -20, 20), "FullyConnectedOptions")
    w, b = net.weights([4, 120], 0, h, per_axis=False)
    z = net.op(Op.FULLY_CONNECTED, [h, w, b], net.activation([3, 4], -20, 20), "FullyConnectedOptions")
    return net.finish(y, z)


@case("float", "int8")
def product_of_every_pixel(net):
    x = net.input([2, 3, 4, 5])
    h = pointwise(net, x, [2, 3, 4, 5], 6)
    w, b = net.weights([7, 6], 0, h, per_axis=False)
    y = net.op(Op.FULLY_CONNECTED, [h, w, b], net.activation([2, 3, 4, 7], -9, 9), "FullyConnectedOptions",
               keepNumDims=True)
    net.version(Op.FULLY_CONNECTED, 5)
    return net.finish(y)


@case("int8")
def product_per_channel(net):
    x = net.input([2, 12])
    w, b = net.weights([5, 12], 0, x)
    y = net.op(Op.FULLY_CONNECTED, [x, w, b], net.activation([2, 5], -4, 4), "FullyConnectedOptions")
    net.version(Op.FULLY_CONNECTED, 12)
    return net.finish(y)


@case("float", "int8", first=dict(borders=[[1, 0], [0, 3]]), last=dict(borders=[[0, 1], [3, 0]]))
def blocks_to_batches(net, borders):
    x = net.input([2, 7, 6, 3])
    lists = [net.const(np.array([2, 3], np.int32)), net.const(np.array(borders, np.int32))]
    y = net.op(Op.SPACE_TO_BATCH_ND, [x, *lists], net.activation([12, 4, 3, 3]), "SpaceToBatchNDOptions")
    net.version(Op.SPACE_TO_BATCH_ND, 2)
    return net.finish(y)


@case("float", "int8")
def odd_names(net):
    x = net.input([1, 4, 5, 3])
    y = pointwise(net, pointwise(net, x, [1, 4, 5, 3]), [1, 4, 5, 3], high=9)
    names = ["a b", "a b:nchw", 'ü\n"%/..', "", "x;y", "x;z", ":real", "a b:real", "t", "t#8", "t", "\x01", "\x01one"]
    for at, tensor in enumerate(net.graph.tensors):
        tensor.name = names[at % len(names)]
    return net.finish(y)


@case(wide=dict(shape=[1, 40, 30, 2]), batch=dict(shape=[2, 5, 4, 3]))
def global_average(net, shape):
    x = net.input(shape)
    y = net.op(Op.AVERAGE_POOL_2D, [x], net.activation([shape[0], 1, 1, shape[3]]), "Pool2DOptions", padding=1,
               strideH=1, strideW=1, filterHeight=shape[1], filterWidth=shape[2])
    mean = net.op(Op.MEAN, [x, net.const(np.array([1, 2], np.int32))], net.activation([shape[0], shape[3]]),
                  "ReducerOptions", keepDims=False)
    net.version(Op.MEAN, 2)
    return net.finish(y, mean)


@case("int8", "uint8")
def stored_numbers_cast(net):
    x = net.input([1, 4, 5, 3])
    casts = [net.op(Op.CAST, [x], net.tensor([1, 4, 5, 3], kind), "CastOptions") for kind in (np.float32, np.int32)]
    return net.finish(*casts)


@case("int8", "uint8")
def clamps_of_another_scale(net):
    x = net.input([1, 4, 5, 3], -3, 3)
    clamps = []
    for code, high in ((Op.RELU, 1.5), (Op.RELU6, 2.0)):
        clamps.append(net.op(code, [x], net.activation([1, 4, 5, 3], -0.7, high)))
        net.version(code, 2)
    return net.finish(*clamps)


@case("int8", "uint8")
def float_layer_of_quantised_weights(net):
    floats = [np.float32] * 3
    x, h, y = (net.tensor(shape, kind) for shape, kind in zip(([1, 4, 5, 3], [5, 3, 3, 3], [1, 4, 5, 5]), floats))
    net.graph.inputs.append(x)
    stored = net.const(net.random.standard_normal([5, 3, 3, 3]).astype(np.float32))
    net.op(Op.DEQUANTIZE, [stored], h, "DequantizeOptions")
    net.version(Op.DEQUANTIZE, 2)
    b = net.tensor([5], np.float32, data=np.linspace(-1, 1, 5).astype(np.float32))
    return net.finish(net.op(Op.CONV_2D, [x, h, b], y, "Conv2DOptions", padding=0, strideH=1, strideW=1,
                             fusedActivationFunction=Act.RELU))


@case("float", "int8", "uint8")
def places_of_the_least(net):
    x, y = net.input([3, 7]), net.tensor([3], np.int64)
    net.op(Op.ARG_MIN, [x, net.const(np.array(-1, np.int32))], y, "ArgMinOptions", outputType=s.TensorType.INT64)
    return net.finish(y)
