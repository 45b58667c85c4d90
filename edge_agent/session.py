"""One device's side of a federated conversation, as an ordinary Flower ClientApp.

The same object answers under the embedded link, in Flower's simulation and in a stock SuperNode.
"""

from collections.abc import Callable
from typing import Protocol

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp

from learning_core.errors import Malformed
from learning_core.params import Shapes
from protos.flower_records import (
    Declined,
    DeviceStatus,
    StatusQuery,
    Trained,
    TrainRequest,
    decode_status_query,
    decode_train_request,
    encode_device_status,
    encode_train_reply,
)

REFUSED = 2  # Flower's error code for "the ClientApp raised an exception"


class Device(Protocol):
    """What a conversation needs of a device; both answers may take as long as they take."""

    def status(self, query: StatusQuery) -> DeviceStatus: ...

    def train(self, request: TrainRequest) -> Trained | Declined: ...

    def adapter_shapes(self) -> Shapes:
        """Of the shared adapter the device could train now; empty when it has no release."""
        ...


def make_client_app(device: Device) -> ClientApp:
    """Answer status queries and train requests for `device`."""

    def status(content: RecordDict) -> RecordDict:
        return encode_device_status(device.status(decode_status_query(content)))

    def train(content: RecordDict) -> RecordDict:
        return encode_train_reply(device.train(decode_train_request(content, device.adapter_shapes())))

    app = ClientApp()
    app.query("status")(_replying(status))
    app.train()(_replying(train))
    return app


def _replying(answer: Callable[[RecordDict], RecordDict]) -> Callable[[Message, Context], Message]:
    """Reply with the answer; to what is malformed with one sentence, which changes nothing on the device."""

    def reply(message: Message, _: Context) -> Message:
        try:
            return Message(answer(message.content), reply_to=message)
        except Malformed as error:
            return Message(Error(REFUSED, str(error)[:200]), reply_to=message)

    return reply
