"""The certificate of a TLS port that has none: an authority made once, and a leaf it signs again when names change.

Whoever connects is given the authority's certificate and trusts nothing else (RFC 5280 profiles).
"""

import datetime
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from learning_core.errors import StateError
from protos.state_folder import write_atomically

_DAYS = 3650
_RENEW_DAYS = 30


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """Where they are kept. `authority` is public and what others pin; the keys are readable by their owner alone."""

    authority: Path
    authority_key: Path
    certificate: Path
    private_key: Path


def ensure_certificate(files: CertificateFiles, owner: str, names: Sequence[str], now_s: float) -> None:
    """Make whatever is missing, does not cover `names` or ends soon; the authority stays once it is there."""
    now = datetime.datetime.fromtimestamp(now_s, datetime.UTC)
    if not files.authority.exists():
        if files.certificate.exists():
            raise StateError(f"{files.authority} is gone; restore it from a backup, because it is what others trust")
        _make_authority(files, f"{owner} authority", now)
    if not _serves(files, names, now):
        _issue(files, owner, names, now)


def _make_authority(files: CertificateFiles, title: str, now: datetime.datetime) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _name(title)
    certificate = (
        _builder(subject, subject, key.public_key(), now)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    write_atomically(files.authority_key, _pem(key), mode=0o600)  # first: a certificate without its key helps nobody
    write_atomically(files.authority, certificate.public_bytes(Encoding.PEM))


def _issue(files: CertificateFiles, owner: str, names: Sequence[str], now: datetime.datetime) -> None:
    try:
        authority = load_pem_private_key(files.authority_key.read_bytes(), None)
        issuer = x509.load_pem_x509_certificate(files.authority.read_bytes())
    except (OSError, ValueError) as error:
        raise StateError(f"{files.authority_key} is not a readable key; restore it from a backup") from error
    if not isinstance(authority, ec.EllipticCurvePrivateKey) or authority.public_key() != issuer.public_key():
        raise StateError(f"{files.authority_key} does not belong to {files.authority}; restore both from one backup")
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        _builder(_name(owner), issuer.subject, key.public_key(), now)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_alternative(name) for name in names]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()), critical=False)
        .sign(authority, hashes.SHA256())
    )
    write_atomically(files.private_key, _pem(key), mode=0o600)
    write_atomically(files.certificate, certificate.public_bytes(Encoding.PEM) + issuer.public_bytes(Encoding.PEM))


def _serves(files: CertificateFiles, names: Sequence[str], now: datetime.datetime) -> bool:
    """Whether there is a leaf for all names; a kill between its two files leaves a pair that does not fit."""
    try:
        certificate = x509.load_pem_x509_certificate(files.certificate.read_bytes())
        key = load_pem_private_key(files.private_key.read_bytes(), None)
        present = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (OSError, ValueError, x509.ExtensionNotFound):
        return False
    return (
        all(_alternative(name) in present for name in names)
        and certificate.not_valid_after_utc - now > datetime.timedelta(days=_RENEW_DAYS)
        and key.public_key() == certificate.public_key()
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
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
