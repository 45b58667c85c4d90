"""The cloud's keys and certificates: made once, kept in its state folder, the private ones readable by it alone."""

import datetime
import ipaddress
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cloud_server.config import Listen
from learning_core.errors import StateError
from protos.state_folder import write_atomically

RELEASE_KEY, RELEASE_PUBLIC = "release.key", "release.pub"
CA_KEY, CA_CERTIFICATE = "ca.key", "ca.crt"
SERVER_KEY, SERVER_CERTIFICATE = "cloud.key", "cloud.crt"
_DAYS = 3650
_RENEW_DAYS = 30


def certificate_names(listen: Listen) -> tuple[str, ...]:
    """All names a fog may call us by."""
    return tuple(dict.fromkeys((listen.host, *listen.names, "localhost", "127.0.0.1", "::1")))


def ensure_release_key(state: Path) -> Ed25519PrivateKey:
    """The key that signs releases, with its public half beside it in hex."""
    path = state / RELEASE_KEY
    if not path.exists():
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
    now = datetime.datetime.fromtimestamp(now_s, datetime.UTC)
    if not (state / CA_CERTIFICATE).exists():
        _make_authority(state, now)
    if not (state / SERVER_CERTIFICATE).exists() or not _serves(state / SERVER_CERTIFICATE, names, now):
        _issue(state, names, now)
    return (state / SERVER_KEY).read_bytes(), (state / SERVER_CERTIFICATE).read_bytes()


def _make_authority(state: Path, now: datetime.datetime) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _name("Dewfall cloud authority")
    certificate = (
        _builder(subject, subject, key.public_key(), now)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    write_atomically(state / CA_KEY, _pem(key), mode=0o600)
    write_atomically(state / CA_CERTIFICATE, certificate.public_bytes(Encoding.PEM))


def _issue(state: Path, names: Sequence[str], now: datetime.datetime) -> None:
    try:
        authority = load_pem_private_key((state / CA_KEY).read_bytes(), None)
        issuer = x509.load_pem_x509_certificate((state / CA_CERTIFICATE).read_bytes())
    except (OSError, ValueError) as error:
        raise StateError(f"{state / CA_KEY} is not a readable key; restore it from a backup") from error
    if not isinstance(authority, ec.EllipticCurvePrivateKey):
        raise StateError(f"{state / CA_KEY} is not the key this program made; restore it from a backup")
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        _builder(_name("Dewfall cloud"), issuer.subject, key.public_key(), now)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_alternative(name) for name in names]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()), critical=False)
        .sign(authority, hashes.SHA256())
    )
    write_atomically(state / SERVER_KEY, _pem(key), mode=0o600)
    chain = certificate.public_bytes(Encoding.PEM) + issuer.public_bytes(Encoding.PEM)
    write_atomically(state / SERVER_CERTIFICATE, chain)


def _serves(path: Path, names: Sequence[str], now: datetime.datetime) -> bool:
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    present = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    key = load_pem_private_key((path.parent / SERVER_KEY).read_bytes(), None)
    return (
        all(_alternative(name) in present for name in names)
        and certificate.not_valid_after_utc - now > datetime.timedelta(days=_RENEW_DAYS)
        and key.public_key() == certificate.public_key()  # a kill between the two files leaves a pair that does not fit
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime.datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=_DAYS))
    )


def _usage(signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
