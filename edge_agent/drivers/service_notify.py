"""Tells the service manager how the agent is doing, by systemd's own protocol (sd_notify(3)): one datagram a word."""

import os
import socket

READY = "READY=1"
ALIVE = "WATCHDOG=1"
STOPPING = "STOPPING=1"


def tell_service_manager(word: str) -> None:
    """Say it where $NOTIFY_SOCKET points, and nothing where nobody asked for it. Never waits and never fails.

    A name that begins with @ lies in the kernel's abstract namespace. A manager that is gone or busy is none of the
    agent's business: it will ask by itself.
    """
    name = os.environ.get("NOTIFY_SOCKET", "")
    if not name.startswith(("/", "@")):
        return
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
            line.setblocking(False)
            line.sendto(word.encode("ascii"), "\0" + name[1:] if name.startswith("@") else name)
    except OSError:
        return
