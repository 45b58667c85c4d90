import socket
import ssl
import threading
import time

import pytest

from learning_core.errors import StateError
from protos.certificates import CertificateFiles, ensure_certificate

NOW_S = time.time()
YEAR_S = 365 * 86400


@pytest.fixture
def files(tmp_path):
    return CertificateFiles(*(tmp_path / name for name in ("ca.crt", "ca.key", "leaf.crt", "leaf.key")))


def handshake(files, name):
    """Speak TLS with the leaf, trusting the authority alone; the bytes that came through."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(files.certificate, files.private_key)
    client = ssl.create_default_context(cafile=str(files.authority))
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    left, right = socket.socketpair()

    def serve():
        with left, server.wrap_socket(left, server_side=True, suppress_ragged_eofs=True) as line:
            line.sendall(b"hello")

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    with right, client.wrap_socket(right, server_hostname=name) as line:
        heard = line.recv(5)
    thread.join()
    return heard


@pytest.mark.parametrize("name", ["fog.example", "127.0.0.1", "::1"])
def test_who_pins_the_authority_accepts_the_leaf_under_each_of_its_names(files, name):
    ensure_certificate(files, "test", ["fog.example", "127.0.0.1", "::1"], NOW_S)

    assert handshake(files, name) == b"hello"


def test_nothing_is_made_anew_while_it_still_fits(files):
    ensure_certificate(files, "test", ["a.example", "b.example"], NOW_S)
    before = files.certificate.read_bytes()
    ensure_certificate(files, "test", ["b.example"], NOW_S + YEAR_S)

    assert files.certificate.read_bytes() == before


@pytest.mark.parametrize(("names", "years"), [(["a.example", "new.example"], 0), (["a.example"], 10)])
def test_a_new_name_or_a_near_end_gives_a_new_leaf_under_the_same_authority(files, names, years):
    ensure_certificate(files, "test", ["a.example"], NOW_S)
    authority, leaf = files.authority.read_bytes(), files.certificate.read_bytes()
    ensure_certificate(files, "test", names, NOW_S + years * YEAR_S - 86400)

    assert files.authority.read_bytes() == authority
    assert files.certificate.read_bytes() != leaf


def test_a_kill_between_key_and_certificate_is_mended(files):
    ensure_certificate(files, "test", ["a.example"], NOW_S)
    key = files.private_key.read_bytes()
    files.certificate.unlink()
    ensure_certificate(files, "test", ["a.example"], NOW_S)

    assert files.private_key.read_bytes() != key
    assert handshake(files, "a.example") == b"hello"


def test_private_keys_are_for_their_owner_alone(files):
    ensure_certificate(files, "test", ["a.example"], NOW_S)

    assert {path.stat().st_mode & 0o777 for path in (files.private_key, files.authority_key)} == {0o600}


def test_a_lost_authority_key_is_a_sentence(files):
    ensure_certificate(files, "test", ["a.example"], NOW_S)
    files.authority_key.unlink()

    with pytest.raises(StateError, match="restore it from a backup"):
        ensure_certificate(files, "test", ["other.example"], NOW_S)
