"""What can go wrong in a way a person can act on: every message is one sentence that says what to do."""


class DewfallError(Exception):
    """Root of our errors; programs print the message and leave with `exit_code`."""

    exit_code = 1


class Malformed(DewfallError):
    """Bytes, a message or a file that is not what it has to be; nothing was changed."""


class Tampered(DewfallError):
    """A checksum or a signature does not fit the bytes."""


class ConfigError(DewfallError):
    """A setting is missing, unknown or out of range."""

    exit_code = 2


class StateError(DewfallError):
    """A state folder is in use, full, read-only or damaged."""


class PortInUse(DewfallError):
    """Another process listens where we want to."""


class LinkDown(DewfallError):
    """The other side cannot be reached now; what was to be sent is kept."""
