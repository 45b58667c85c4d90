"""What a release is on disk and how a reader knows it is the one the cloud made.

A release is a folder of files, a manifest with each file's size and sha256, and an Ed25519 signature over the
manifest's bytes (RFC 8032). Whoever carried the folder need not be trusted: `verify_release` reads nothing else of it
before the signature and every sum fit.
"""

import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from learning_core.errors import ConfigError, Malformed, StateError, Tampered
from learning_core.params import Shapes
from protos import checked
from protos.state_folder import write_atomically

MANIFEST, SIGNATURE = "manifest.json", "manifest.sig"
STUDENT_GRAPH, JUDGE_GRAPH = "student.onnx", "judge.onnx"
STUDENT_INT8 = "student_int8.onnx"
REMOTE = "fog:"  # a graph whose name begins so is no file: a fog answers with it, if it offers to
USUAL = "usual"
STUDENT_WEIGHTS, START, GOLDEN = "student.safetensors", "start.safetensors", "golden.safetensors"

MAX_MANIFEST_BYTES = 1 << 20
MAX_FILE_BYTES = 256 << 20
MAX_STEPS, MAX_GUIDANCE = 1000, 100
_MAX_FILES = 64
_MAX_VARIANTS = 16
_REMOTE = re.compile(re.escape(REMOTE) + r"[a-z][a-z0-9_]{0,40}", re.ASCII)
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,40}(\.[a-z0-9]{1,16})?", re.ASCII)
_SUM = re.compile(r"[0-9a-f]{64}", re.ASCII)
_READ_BYTES = 1 << 20
_REALS = ("alpha", "guidance", "max_fidelity_drop", "max_kid_rise", "max_out_of_range")


@dataclass(frozen=True, slots=True)
class FileSum:
    """What one file has to be. `sha256`: 64 lower-case hex digits; `size` in bytes."""

    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to answer with a release: which graph, in how many steps, with how much guidance."""

    name: str
    graph: str  # a file of the release, or "fog:<name>"
    steps: int
    guidance: float

    @property
    def is_remote(self) -> bool:
        return self.graph.startswith(REMOTE)


def usual(steps: int, guidance: float) -> Variant:
    """The variant that every release has, and has first."""
    return Variant(USUAL, STUDENT_GRAPH, steps, guidance)


@dataclass(frozen=True, slots=True)
class Manifest:
    """All a device has to know of a release before it loads it."""

    version: int
    family: str
    model: Mapping[str, int | float]  # the family's configuration, by field name
    rank: int
    alpha: float
    adapter_shapes: Shapes  # what is federated on this release
    steps: int  # of the sampler
    guidance: float
    known_conditions: tuple[int, ...]  # the release can make these without an adapter
    num_conditions: int
    max_fidelity_drop: float  # the golden gate of the edge
    max_kid_rise: float
    max_out_of_range: float
    variants: tuple[Variant, ...]  # the usual one first: `usual(steps, guidance)`
    files: Mapping[str, FileSum] = field(default_factory=dict)


def is_release_file(name: str) -> bool:
    """Whether `name` is a plain file name a release may hold: no folder, no hidden file, nothing of the manifest."""
    return bool(_NAME.fullmatch(name)) and name not in {MANIFEST, SIGNATURE}


def sum_of(data: bytes) -> FileSum:
    return FileSum(hashlib.sha256(data).hexdigest(), len(data))


def encode_manifest(manifest: Manifest) -> bytes:
    """Canonical JSON: equal manifests give equal bytes."""
    reals = {name: float(getattr(manifest, name)) for name in _REALS}
    variants = [asdict(each) | {"guidance": float(each.guidance)} for each in manifest.variants]
    tree = asdict(manifest) | reals | {"variants": variants}
    return json.dumps(tree, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def decode_manifest(data: bytes) -> Manifest:
    """Inverse of `encode_manifest`; refuses anything it would not have written. Raises Malformed."""
    if len(data) > MAX_MANIFEST_BYTES:
        raise Malformed(f"the manifest takes {len(data)} bytes, more than the {MAX_MANIFEST_BYTES} allowed")
    try:
        manifest = _manifest(json.loads(data.decode("ascii")))
        canonical = encode_manifest(manifest)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError) as error:
        raise Malformed(f"these bytes are not a release manifest: {str(error)[:120]}") from error
    if canonical != data:
        raise Malformed("the manifest is not written in its canonical form")
    return manifest


def verify_manifest(data: bytes, signature: bytes, release_key: bytes) -> Manifest:
    """Believe a manifest only with the signature of `release_key` (raw, 32 bytes). Raises Tampered or Malformed."""
    try:
        Ed25519PublicKey.from_public_bytes(release_key).verify(signature, data)
    except (InvalidSignature, ValueError, TypeError) as error:
        raise Tampered("the release is not signed by the release key in the settings") from error
    return decode_manifest(data)


def verify_release(folder: Path, release_key: bytes) -> Manifest:
    """Check the signature, then every file's size and sum, and that nothing is missing or added. Raises Tampered."""
    manifest = verify_manifest(_read(folder / MANIFEST, MAX_MANIFEST_BYTES), _read(folder / SIGNATURE, 64), release_key)
    wanted = {MANIFEST, SIGNATURE, *manifest.files}
    found = {entry.name for entry in os.scandir(folder)}
    if odd := sorted(wanted ^ found):
        what = "missing" if odd[0] in wanted else "not part of it"
        raise Tampered(f"release {manifest.version} in {folder} is not whole: {odd[0][:80]!r} is {what}")
    for name, expected in manifest.files.items():
        verify_file(folder / name, expected)
    return manifest


def verify_file(path: Path, expected: FileSum) -> None:
    """Compare one file with its line in the manifest. Raises Tampered."""
    state = hashlib.sha256()
    try:
        about = path.lstat()
        if not stat.S_ISREG(about.st_mode) or about.st_size != expected.size:
            raise Tampered(f"{path} is not the file the manifest names: its size or kind differs")
        with path.open("rb") as file:
            while block := file.read(_READ_BYTES):
                state.update(block)
    except OSError as error:
        raise Tampered(f"{path} cannot be read ({error.strerror})") from error
    if state.hexdigest() != expected.sha256:
        raise Tampered(f"{path} is not the file the manifest names: its bytes were changed")


def write_release(folder: Path, files: Mapping[str, bytes], draft: Manifest, key: Ed25519PrivateKey) -> Manifest:
    """Write, sum and sign a release; `folder` appears whole or not at all. `draft.files` is filled in here."""
    manifest = replace(draft, files={name: sum_of(data) for name, data in files.items()})
    data = encode_manifest(manifest)
    decode_manifest(data)
    if folder.exists():
        raise StateError(f"{folder} exists already; a published release is never written over")
    unfinished = folder.with_name(f".{folder.name}.draft")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        unfinished.mkdir(parents=True)
        for name, content in {**files, MANIFEST: data, SIGNATURE: key.sign(data)}.items():
            write_atomically(unfinished / name, content)
        unfinished.rename(folder)
    except OSError as error:
        raise StateError(f"{folder} cannot be written ({error.strerror}); check the disk it is on") from error
    return manifest


def read_release_key(path: Path) -> bytes:
    """The public release key as 64 hex digits in a text file -> 32 raw bytes. Raises ConfigError."""
    try:
        text = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the release key {path} cannot be read; copy release.pub from the cloud's state") from error
    if not _SUM.fullmatch(text):
        raise ConfigError(f"{path} does not hold a release key (64 hex digits); copy the cloud's release.pub")
    return bytes.fromhex(text)


def _read(path: Path, max_bytes: int) -> bytes:
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            raise Tampered(f"{path} is not a plain file")
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except OSError as error:
        raise Tampered(f"{path} cannot be read ({error.strerror})") from error
    if len(data) > max_bytes:
        raise Tampered(f"{path} is larger than it may be")
    return data


def _manifest(tree: Any) -> Manifest:
    names = {each.name for each in fields(Manifest)}
    if not isinstance(tree, dict) or tree.keys() != names:
        raise ValueError("its keys are not those of a manifest")
    num_conditions = checked.integer(tree["num_conditions"], 1, 1 << 20)
    known = tuple(checked.integer(each, 0, num_conditions - 1) for each in checked.rows(tree["known_conditions"]))
    if list(known) != sorted(set(known)):
        raise ValueError("its known conditions are not in ascending order")
    steps, guidance = checked.integer(tree["steps"], 1, MAX_STEPS), checked.real(tree["guidance"], 0, MAX_GUIDANCE)
    files = _files(checked.table(tree["files"]))
    return Manifest(
        version=checked.integer(tree["version"], 1, 10**9 - 1),
        family=checked.name(tree["family"]),
        model={checked.name(name): checked.number(value) for name, value in checked.table(tree["model"]).items()},
        rank=checked.integer(tree["rank"], 1, 4096),
        alpha=checked.real(tree["alpha"], 0, 1e6),
        adapter_shapes={
            checked.path(name): tuple(checked.integer(each, 1, 1 << 24) for each in checked.rows(shape))
            for name, shape in checked.table(tree["adapter_shapes"]).items()
        },
        steps=steps,
        guidance=guidance,
        known_conditions=known,
        num_conditions=num_conditions,
        max_fidelity_drop=checked.real(tree["max_fidelity_drop"], 0, 1),
        max_kid_rise=checked.real(tree["max_kid_rise"], 0, 1e6),
        max_out_of_range=checked.real(tree["max_out_of_range"], 0, 1),
        variants=_variants(checked.rows(tree["variants"]), usual(steps, guidance), files.keys()),
        files=files,
    )


def _variants(rows: list[Any], first: Variant, files: Collection[str]) -> tuple[Variant, ...]:
    if not 1 <= len(rows) <= _MAX_VARIANTS:
        raise ValueError(f"it has {len(rows)} variants, not 1 to {_MAX_VARIANTS}")
    variants = tuple(_variant(checked.table(row)) for row in rows)
    if variants[0] != first:
        raise ValueError("its first variant is not the usual one")
    if len({each.name for each in variants}) != len(variants):
        raise ValueError("two of its variants have the same name")
    for each in variants:
        if each.graph not in files and not _REMOTE.fullmatch(each.graph):
            raise ValueError(f"the graph of variant {each.name!r} is no file of it")
    return variants


def _variant(row: dict[str, Any]) -> Variant:
    if row.keys() != {each.name for each in fields(Variant)} or not isinstance(row["graph"], str):
        raise ValueError("the keys of a variant are not those of one")
    steps, guidance = checked.integer(row["steps"], 1, MAX_STEPS), checked.real(row["guidance"], 0, MAX_GUIDANCE)
    return Variant(checked.name(row["name"]), row["graph"], steps, guidance)


def _files(table: dict[str, Any]) -> dict[str, FileSum]:
    if len(table) > _MAX_FILES:
        raise ValueError("it names too many files")
    sums = {}
    for name, about in table.items():
        if not is_release_file(name):
            raise ValueError(f"{name[:80]!r} is not a plain file name")
        if checked.table(about).keys() != {"sha256", "size"} or not isinstance(about["sha256"], str):
            raise ValueError(f"the sum of {name!r} is incomplete")
        if not _SUM.fullmatch(about["sha256"]):
            raise ValueError(f"the sum of {name!r} is not a sha256")
        sums[name] = FileSum(about["sha256"], checked.integer(about["size"], 0, MAX_FILE_BYTES))
    return sums
