"""A package under KServe's Python server: `kserve_server.py NAME FOLDER GRPC_PORT HTTP_PORT`."""

import sys

from kserve import InferOutput, InferResponse, Model, ModelServer
from package import Package


class OnnxModel(Model):
    def __init__(self, name, folder):
        super().__init__(name)
        self.package = Package(folder)
        self.ready = True

    async def get_input_types(self):
        return [declared(tensor) for tensor in self.package.inputs]

    async def get_output_types(self):
        return [declared(tensor) for tensor in self.package.outputs]

    async def predict(self, payload, headers=None, response_headers=None):
        answer = self.package.run({tensor.name: tensor.as_numpy() for tensor in payload.inputs})
        outputs = []
        for name, datatype, _, _ in self.package.outputs:
            output = InferOutput(name, list(answer[name].shape), datatype)
            output.set_data_from_numpy(answer[name])
            outputs.append(output)
        return InferResponse(payload.id, self.name, outputs)


def declared(tensor):
    name, datatype, _, shape = tensor
    return {"name": name, "datatype": datatype, "shape": shape}


if __name__ == "__main__":
    name, folder, grpc_port, http_port = sys.argv[1:]
    server = ModelServer(grpc_port=int(grpc_port), http_port=int(http_port), workers=1)
    server.start([OnnxModel(name, folder)])
