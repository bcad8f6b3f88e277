"""`protocol.proto`, which people read, and the messages, which the program builds, are one."""

import importlib.resources
import subprocess
import sys
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

from aimo2.kaggle.messages import METHOD, PORT, file_descriptor


def compiled(folder: Path) -> FileDescriptorProto:
    """What protobuf's own compiler makes of `protocol.proto`."""
    source = importlib.resources.files("aimo2.kaggle") / "protocol.proto"
    (folder / "protocol.proto").write_text(source.read_text())
    out = folder / "set.bin"
    subprocess.run(
        [
            *(sys.executable, "-m", "grpc_tools.protoc", f"-I{folder}"),
            *(f"--descriptor_set_out={out}", "protocol.proto"),
        ],
        check=True,
    )
    return FileDescriptorSet.FromString(out.read_bytes()).file[0]


def test_the_proto_file_and_the_messages_are_the_same(tmp_path: Path) -> None:
    theirs, ours = compiled(tmp_path), file_descriptor()
    theirs.name = ours.name
    assert ours == theirs


def test_the_method_path_is_the_one_that_peers_call() -> None:
    assert METHOD == "/kaggle_evaluation_client.KaggleEvaluationService/Send"
    assert PORT == 50051
