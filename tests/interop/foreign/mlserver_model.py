"""A package under MLServer: named as the implementation in `model-settings.json`."""

from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse, MetadataTensor
from package import Package


class OnnxModel(MLModel):
    async def load(self):
        self.package = Package(self.settings.parameters.uri)
        self.inputs = [declared(tensor) for tensor in self.package.inputs]
        self.outputs = [declared(tensor) for tensor in self.package.outputs]
        return True

    async def predict(self, payload):
        values = {tensor.name: NumpyCodec.decode_input(tensor) for tensor in payload.inputs}
        answer = self.package.run(values)
        outputs = [NumpyCodec.encode_output(name, value) for name, value in answer.items()]
        return InferenceResponse(id=payload.id, model_name=self.name, outputs=outputs)


def declared(tensor):
    name, datatype, _, shape = tensor
    return MetadataTensor(name=name, datatype=datatype, shape=shape)
