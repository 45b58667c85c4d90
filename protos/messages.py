"""What every message of ours is held to, whoever sent it."""

from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from learning_core.errors import Malformed


def nothing_unknown(message: Message) -> None:
    """Raises Malformed for a field this version does not know, at any depth."""
    if len(UnknownFieldSet(message)):
        raise Malformed(f"the {message.DESCRIPTOR.name} has a field this version does not know")
    for field, value in message.ListFields():
        if field.message_type is not None:
            nothing_unknown(value)
