"""How many bytes of messages each fog sent and got."""

import threading


class Traffic:
    """Counts since this process started; not saved."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._bytes: dict[str, tuple[int, int]] = {}

    def add(self, fog: str, up: int, down: int) -> None:
        with self._turn:
            before = self._bytes.get(fog, (0, 0))
            self._bytes[fog] = (before[0] + up, before[1] + down)

    def counts(self) -> dict[str, tuple[int, int]]:
        """(up, down) by fog: up is from the fog to the cloud."""
        with self._turn:
            return dict(self._bytes)
