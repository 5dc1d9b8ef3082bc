"""A package under Triton, by nvidia-pytriton: `pytriton_server.py NAME FOLDER GRPC_PORT HTTP_PORT`."""

import sys

from package import Package
from pytriton.model_config import ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig


def main(name, folder, grpc_port, http_port):
    package = Package(folder)

    def infer(requests):
        return [package.run(dict(request.data)) for request in requests]

    def declared(tensors):
        return [Tensor(name=name, dtype=dtype, shape=tuple(shape)) for name, _, dtype, shape in tensors]

    config = TritonConfig(
        grpc_address="127.0.0.1",
        grpc_port=int(grpc_port),
        http_address="127.0.0.1",
        http_port=int(http_port),
        allow_metrics=False,
    )
    with Triton(config=config) as triton:
        triton.bind(
            model_name=name,
            infer_func=infer,
            inputs=declared(package.inputs),
            outputs=declared(package.outputs),
            config=ModelConfig(batching=False),
        )
        triton.serve()


if __name__ == "__main__":
    main(*sys.argv[1:])
