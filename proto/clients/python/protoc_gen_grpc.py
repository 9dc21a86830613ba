"""A plugin for buf that gives what grpcio-tools generates: messages, their types, and gRPC stubs.

grpcio-tools is a protoc of its own and has no plugins that buf could call; this one speaks for it.
"""

import sys
import tempfile
from pathlib import Path

from google.protobuf.compiler.plugin_pb2 import CodeGeneratorRequest, CodeGeneratorResponse
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from grpc_tools import protoc


def generate(request: CodeGeneratorRequest) -> CodeGeneratorResponse:
    """Runs the protoc of grpcio-tools over the request's files."""
    response = CodeGeneratorResponse(supported_features=CodeGeneratorResponse.FEATURE_PROTO3_OPTIONAL)
    with tempfile.TemporaryDirectory() as name:
        folder, out = Path(name), Path(name) / "out"
        out.mkdir()
        descriptors = folder / "descriptors.binpb"
        descriptors.write_bytes(FileDescriptorSet(file=request.proto_file).SerializeToString())
        outputs = [f"--{kind}_out={out}" for kind in ("python", "pyi", "grpc_python")]
        if protoc.main(["protoc", f"--descriptor_set_in={descriptors}", *outputs, *request.file_to_generate]) != 0:
            response.error = "the protoc of grpcio-tools failed"
        for file in sorted(path for path in out.rglob("*") if path.is_file()):
            response.file.add(name=str(file.relative_to(out)), content=file.read_text())
    return response


if __name__ == "__main__":
    answer = generate(CodeGeneratorRequest.FromString(sys.stdin.buffer.read()))
    sys.stdout.buffer.write(answer.SerializeToString())
