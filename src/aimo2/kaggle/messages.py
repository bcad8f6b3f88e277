"""The protocol's messages and the names of its one method. Knows no values and no network.

The message classes are built when this module is imported, and not generated: generated code
refuses a protobuf older than the generator, and a competition's image has the one it has.
`protocol.proto` shows them for people; a test holds the two together.
"""

from typing import Any

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    MessageOptions,
)
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

PACKAGE = "kaggle_evaluation_client"
SERVICE = f"{PACKAGE}.KaggleEvaluationService"
METHOD = f"/{SERVICE}/Send"
PORT = 50051

CHANNEL_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # Heart-beats, as the competition's own ends send and allow them: a question may be silent for
    # half an hour, and a peer's pings must not be taken for an attack.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 1_000),
)
"""-1: messages of any size."""

_F = FieldDescriptorProto
VALUE_FIELDS: tuple[tuple[str, "_F.Type.ValueType", str], ...] = (
    ("str_value", _F.TYPE_STRING, ""),
    ("bool_value", _F.TYPE_BOOL, ""),
    ("int_value", _F.TYPE_SINT64, ""),
    ("float_value", _F.TYPE_FLOAT, ""),
    ("none_value", _F.TYPE_BOOL, ""),
    ("list_value", _F.TYPE_MESSAGE, "PayloadList"),
    ("tuple_value", _F.TYPE_MESSAGE, "PayloadList"),
    ("dict_value", _F.TYPE_MESSAGE, "PayloadMap"),
    ("pandas_dataframe_value", _F.TYPE_BYTES, ""),
    ("polars_dataframe_value", _F.TYPE_BYTES, ""),
    ("pandas_series_value", _F.TYPE_BYTES, ""),
    ("polars_series_value", _F.TYPE_BYTES, ""),
    ("numpy_array_value", _F.TYPE_BYTES, ""),
    ("numpy_scalar_value", _F.TYPE_BYTES, ""),
    ("bytes_io_value", _F.TYPE_BYTES, ""),
)
"""Of `Payload.value`, numbered from 1 in this order."""


def _field(
    message: DescriptorProto,
    name: str,
    number: int,
    kind: "_F.Type.ValueType",
    of: str = "",
    *,
    repeated: bool = False,
) -> FieldDescriptorProto:
    return message.field.add(
        name=name,
        json_name=_camel(name),
        number=number,
        type=kind,
        label=_F.LABEL_REPEATED if repeated else _F.LABEL_OPTIONAL,
        type_name=f".{PACKAGE}.{of}" if of else None,
    )


def _payload_map(message: DescriptorProto, name: str, number: int) -> None:
    """`map<string, Payload>`: on the wire, a repeated message of key 1 and value 2."""
    camel = _camel(name)
    entry = camel[:1].upper() + camel[1:] + "Entry"
    nested = message.nested_type.add(name=entry, options=MessageOptions(map_entry=True))
    _field(nested, "key", 1, _F.TYPE_STRING)
    _field(nested, "value", 2, _F.TYPE_MESSAGE, "Payload")
    _field(message, name, number, _F.TYPE_MESSAGE, f"{message.name}.{entry}", repeated=True)


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)


def file_descriptor() -> FileDescriptorProto:
    """The whole protocol, as `protocol.proto` says it."""
    file = FileDescriptorProto(name="aimo2/kaggle/protocol.proto", package=PACKAGE, syntax="proto3")
    request = file.message_type.add(name="KaggleEvaluationRequest")
    _field(request, "name", 1, _F.TYPE_STRING)
    _field(request, "args", 2, _F.TYPE_MESSAGE, "Payload", repeated=True)
    _payload_map(request, "kwargs", 3)
    response = file.message_type.add(name="KaggleEvaluationResponse")
    _field(response, "payload", 1, _F.TYPE_MESSAGE, "Payload")
    payload = file.message_type.add(name="Payload")
    payload.oneof_decl.add(name="value")
    for number, (name, kind, of) in enumerate(VALUE_FIELDS, 1):
        _field(payload, name, number, kind, of).oneof_index = 0
    payloads = file.message_type.add(name="PayloadList")
    _field(payloads, "payloads", 1, _F.TYPE_MESSAGE, "Payload", repeated=True)
    mapping = file.message_type.add(name="PayloadMap")
    _payload_map(mapping, "payload_map", 1)
    service = file.service.add(name="KaggleEvaluationService")
    service.method.add(
        name="Send",
        input_type=f".{PACKAGE}.KaggleEvaluationRequest",
        output_type=f".{PACKAGE}.KaggleEvaluationResponse",
    )
    return file


def _classes() -> dict[str, Any]:
    # A pool of our own: the competition's package may describe the same names in the default one.
    pool = DescriptorPool()
    pool.AddSerializedFile(file_descriptor().SerializeToString())
    names = [message.name for message in file_descriptor().message_type]
    return {
        name: GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{name}")) for name in names
    }


# Classes made at run time have no attributes that a type checker could know.
_CLASSES = _classes()
Request: Any = _CLASSES["KaggleEvaluationRequest"]
Response: Any = _CLASSES["KaggleEvaluationResponse"]
Payload: Any = _CLASSES["Payload"]
PayloadList: Any = _CLASSES["PayloadList"]
PayloadMap: Any = _CLASSES["PayloadMap"]
