"""What the agent's tests share."""

import sys
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from edge_agent.drivers.onnx_engine import load_release
from protos.release import verify_release

sys.path.insert(0, str(Path(__file__).parent))
import device_tree
import small_world
import stand_in_release
from small_world import Mirror
from stand_in_release import PUBLIC_KEY, make_flow_release, make_release, manifest_digest


@pytest.fixture(scope="session")
def stand_in():
    """The parts of `stand_in_release` and `small_world`, for tests: names as attributes."""
    return SimpleNamespace(**vars(stand_in_release), Machine=small_world.Machine)


@pytest.fixture(scope="session")
def devices():
    """The parts of `device_tree`, for tests: names as attributes."""
    return SimpleNamespace(**vars(device_tree))


@pytest.fixture
def release(tmp_path):
    """Release 1, loaded."""
    folder = tmp_path / "published" / "1"
    return load_release(folder, make_release(folder), manifest_digest(folder))


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    """A self-signed certificate for 127.0.0.1 and its key, as files."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fog")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("tls")
    (folder / "fog.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    (folder / "fog.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    )
    return folder / "fog.pem", folder / "fog.key"


@pytest.fixture
def mirror(tmp_path, certificate):
    folder = tmp_path / "mirror"
    folder.mkdir()
    mirror = Mirror(folder, certificate)
    yield mirror
    mirror.close()


@pytest.fixture(scope="session")
def flow_folder(tmp_path_factory):
    """A published release of a real flow model; not to be changed."""
    folder = tmp_path_factory.mktemp("flow") / "1"
    make_flow_release(folder)
    return folder


@pytest.fixture
def flow_release(flow_folder):
    return load_release(flow_folder, verify_release(flow_folder, PUBLIC_KEY), manifest_digest(flow_folder))
