"""The cloud's keys and certificates: made once, kept in its state folder, the private ones readable by it alone."""

from collections.abc import Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cloud_server.config import Listen
from learning_core.errors import StateError
from protos.certificates import CertificateFiles, ensure_certificate
from protos.state_folder import write_atomically

RELEASE_KEY, RELEASE_PUBLIC = "release.key", "release.pub"
CA_KEY, CA_CERTIFICATE = "ca.key", "ca.crt"
SERVER_KEY, SERVER_CERTIFICATE = "cloud.key", "cloud.crt"


def certificate_names(listen: Listen) -> tuple[str, ...]:
    """All names a fog may call us by."""
    return tuple(dict.fromkeys((listen.host, *listen.names, "localhost", "127.0.0.1", "::1")))


def ensure_release_key(state: Path) -> Ed25519PrivateKey:
    """The key that signs releases, with its public half beside it in hex."""
    path = state / RELEASE_KEY
    if not path.exists():
        if (state / RELEASE_PUBLIC).exists():
            raise StateError(f"{path} is gone; restore it from a backup, because devices believe no other key")
        write_atomically(path, Ed25519PrivateKey.generate().private_bytes_raw().hex().encode(), mode=0o600)
    try:
        key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(path.read_text(encoding="ascii")))
    except (OSError, ValueError) as error:
        raise StateError(f"{path} is not a readable release key; restore it from a backup") from error
    public = f"{key.public_key().public_bytes_raw().hex()}\n".encode()
    if not (state / RELEASE_PUBLIC).exists():
        write_atomically(state / RELEASE_PUBLIC, public)
    return key


def ensure_certificates(state: Path, names: Sequence[str], now_s: float) -> tuple[bytes, bytes]:
    """(private key, certificate chain) of the server in PEM, for all of `names`; issued anew when they changed."""
    names_of = (CA_CERTIFICATE, CA_KEY, SERVER_CERTIFICATE, SERVER_KEY)
    files = CertificateFiles(*(state / name for name in names_of))
    ensure_certificate(files, "Dewfall cloud", names, now_s)
    return files.private_key.read_bytes(), files.certificate.read_bytes()
