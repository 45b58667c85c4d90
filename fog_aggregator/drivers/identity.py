"""How a fog proves who it is: its certificate towards devices, its credential and one-time token towards the cloud."""

import secrets
import time
from pathlib import Path

from cryptography.x509 import load_pem_x509_certificates

from fog_aggregator.config import Cloud, Listen
from fog_aggregator.drivers.journal_file import JournalFile
from learning_core.errors import ConfigError
from protos.certificates import CertificateFiles, ensure_certificate

ENROLLED = "enrolled"  # the fact that says the token was used


def authority(cloud: Cloud) -> bytes:
    """The certificate in PEM that the cloud's has to be signed by. Raises ConfigError."""
    try:
        data = cloud.ca.read_bytes()
    except OSError as error:
        raise ConfigError(f"the cloud's authority {cloud.ca} cannot be read; copy the cloud's ca.crt") from error
    try:
        load_pem_x509_certificates(data)
    except ValueError as error:
        raise ConfigError(f"{cloud.ca} holds no certificate; copy the cloud's ca.crt") from error
    return data


def read_token(cloud: Cloud) -> str | None:
    if cloud.token_file is None:
        return cloud.token
    try:
        return cloud.token_file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"the token file {cloud.token_file} cannot be read; write the cloud's enrolment token into it"
        ) from error


def token_to_use(cloud: Cloud, file: JournalFile) -> str | None:
    """The token to enrol with, or None when that is done. Raises ConfigError when there is none to do it with."""
    if file.fact(ENROLLED):
        return None
    if not (token := read_token(cloud)):
        raise ConfigError(
            "this fog is not enrolled with the cloud; make a token with the cloud's `enroll-token` and set it as token"
            " in [cloud]"
        )
    return token


def credential(file: JournalFile) -> str:
    """Made once and kept in the state folder; the cloud knows only its sha256."""
    if found := file.fact("credential"):
        return found.decode()
    made = secrets.token_hex(32)
    file.remember("credential", made.encode())
    return made


def certificate(listen: Listen, folder: Path) -> tuple[Path, Path]:
    if listen.certificate is not None and listen.private_key is not None:
        return listen.certificate, listen.private_key
    tls = folder / "tls"
    tls.mkdir(exist_ok=True)
    files = CertificateFiles(folder / "fog.crt", tls / "authority.key", tls / "leaf.crt", tls / "leaf.key")
    names = dict.fromkeys((listen.host, *listen.names, "localhost", "127.0.0.1", "::1"))
    ensure_certificate(files, "Dewfall fog", tuple(names), time.time())
    return files.certificate, files.private_key
