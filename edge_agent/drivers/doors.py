"""Through which doors programs on the device come in: always the control socket, and HTTP where a person wants it."""

from collections.abc import Mapping
from typing import Protocol

from edge_agent.config import AgentSettings
from edge_agent.drivers.control_socket import ControlSocket
from edge_agent.drivers.http_door import HttpDoor, token_in
from edge_agent.operations import Operation
from learning_core.errors import DewfallError


class Door(Protocol):
    def close(self) -> None: ...


def open_doors(settings: AgentSettings, operations: Mapping[str, Operation]) -> list[Door]:
    """All that are set, or none. Raises DewfallError."""
    doors: list[Door] = [ControlSocket(settings.socket, operations)]
    serving = settings.serving
    if serving.http is not None:
        try:
            doors.append(HttpDoor(serving.http, operations, None if serving.http_open else token_in(settings.state)))
        except DewfallError:
            doors[0].close()
            raise
    return doors
