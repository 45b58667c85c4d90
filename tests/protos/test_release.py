import json
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from learning_core.errors import ConfigError, Malformed, StateError, Tampered
from protos.release import (
    FileSum,
    Manifest,
    Variant,
    decode_manifest,
    encode_manifest,
    is_release_file,
    read_release_key,
    sum_of,
    usual,
    verify_manifest,
    verify_release,
    write_release,
)

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = KEY.public_key().public_bytes_raw()
FILES = {"student.onnx": b"graph" * 50, "student_int8.onnx": b"whole", "golden.safetensors": b"golden", "none.bin": b""}
DRAFT = Manifest(
    version=1,
    family="flow_image",
    model={"depth": 3, "dropout": 0.1},
    rank=8,
    alpha=16.0,
    adapter_shapes={"blocks.0.qkv.lora_B": (192, 8), "label_rows": (5, 64)},
    steps=10,
    guidance=1.5,
    known_conditions=(0, 1, 2, 3, 4),
    num_conditions=10,
    max_fidelity_drop=0.02,
    max_kid_rise=0.2,
    max_out_of_range=0.05,
    variants=(
        usual(10, 1.5),
        Variant("int8", "student_int8.onnx", 10, 1.5),
        Variant("few_step", "student.onnx", 4, 1.0),
        Variant("teacher", "fog:teacher", 10, 2.0),
    ),
)
WHOLE = replace(DRAFT, files={name: sum_of(data) for name, data in FILES.items()})

FIRST = {"name": "usual", "graph": "student.onnx", "steps": 10, "guidance": 1.5}

names = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,20}\.[a-z0-9]{1,8}", fullmatch=True).filter(is_release_file)
sums = st.builds(FileSum, sha256=st.text("0123456789abcdef", min_size=64, max_size=64), size=st.integers(0, 1 << 20))
shares = st.floats(0, 1)
labels = st.from_regex(r"[a-z][a-z0-9_]{0,20}", fullmatch=True)


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    num_conditions = draw(st.integers(1, 40))
    known = draw(st.sets(st.integers(0, num_conditions - 1)))
    steps, guidance = draw(st.integers(1, 50)), draw(st.floats(0, 9))
    files = draw(st.dictionaries(names, sums, max_size=5)) | {"student.onnx": draw(sums)}
    graphs = st.sampled_from([*files, "fog:teacher"])
    more = draw(st.lists(st.builds(Variant, labels, graphs, st.integers(1, 50), st.floats(0, 9)), max_size=4))
    variants = {each.name: each for each in (*more, usual(steps, guidance))}
    return Manifest(
        version=draw(st.integers(1, 10**9 - 1)),
        family=draw(st.sampled_from(["flow_image", "language"])),
        model=draw(
            st.dictionaries(
                st.from_regex(r"[a-z][a-z0-9_]{0,10}", fullmatch=True),
                st.integers(-100, 100) | st.floats(allow_nan=False, allow_infinity=False),
            )
        ),
        rank=draw(st.integers(1, 64)),
        alpha=draw(st.floats(0, 64)),
        adapter_shapes=draw(
            st.dictionaries(
                st.from_regex(r"[a-z0-9_.]{1,20}", fullmatch=True),
                st.lists(st.integers(1, 512), max_size=3).map(tuple),
            )
        ),
        steps=steps,
        guidance=guidance,
        known_conditions=tuple(sorted(known)),
        num_conditions=num_conditions,
        max_fidelity_drop=draw(shares),
        max_kid_rise=draw(shares),
        max_out_of_range=draw(shares),
        variants=tuple(sorted(variants.values(), key=lambda each: each.name != "usual")),
        files=files,
    )


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("releases") / "1"
    write_release(folder, FILES, DRAFT, KEY)
    return folder


@given(manifests())
def test_a_manifest_survives_its_bytes(manifest: Manifest):
    assert decode_manifest(encode_manifest(manifest)) == manifest


@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_bytes_that_are_no_manifest_are_refused(data: bytes):
    with pytest.raises(Malformed):
        decode_manifest(data)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("version", 0),
        ("version", True),
        ("version", 1.0),
        ("rank", -1),
        ("alpha", "16"),
        ("steps", 10**6),
        ("guidance", -1.0),
        ("known_conditions", [4, 3]),
        ("known_conditions", [0, 0]),
        ("known_conditions", [10]),
        ("max_fidelity_drop", 2.0),
        ("model", {"depth": [3]}),
        ("model", []),
        ("adapter_shapes", {"w": [0]}),
        ("adapter_shapes", {"../w": [1]}),
        ("files", {"../evil": {"sha256": "0" * 64, "size": 1}}),
        ("files", {"a/b": {"sha256": "0" * 64, "size": 1}}),
        ("files", {"/etc/passwd": {"sha256": "0" * 64, "size": 1}}),
        ("files", {"..": {"sha256": "0" * 64, "size": 1}}),
        ("files", {".hidden": {"sha256": "0" * 64, "size": 1}}),
        ("files", {"manifest.json": {"sha256": "0" * 64, "size": 1}}),
        ("files", {"a.onnx": {"sha256": "0" * 63, "size": 1}}),
        ("files", {"a.onnx": {"sha256": "0" * 64, "size": 1 << 40}}),
        ("files", {"a.onnx": {"sha256": "0" * 64}}),
        ("unheard_of", 1),
    ],
)
def test_a_manifest_with_one_odd_value_is_refused(key: str, value: object):
    tree = json.loads(encode_manifest(WHOLE)) | {key: value}
    with pytest.raises(Malformed):
        decode_manifest(json.dumps(tree, sort_keys=True, separators=(",", ":")).encode())


@pytest.mark.parametrize(
    "variants",
    [
        [],
        [{"name": "few", "graph": "student.onnx", "steps": 10, "guidance": 1.5}],
        [{"name": "usual", "graph": "student_int8.onnx", "steps": 10, "guidance": 1.5}],
        [{"name": "usual", "graph": "student.onnx", "steps": 9, "guidance": 1.5}],
        [{"name": "usual", "graph": "student.onnx", "steps": 10}],
        [FIRST, FIRST],
        [FIRST, {**FIRST, "name": "Cheap"}],
        [FIRST, {**FIRST, "name": "few", "graph": "nowhere.onnx"}],
        [FIRST, {**FIRST, "name": "few", "graph": "fog:../evil"}],
        [FIRST, {**FIRST, "name": "few", "graph": ["student.onnx"]}],
        [FIRST, {**FIRST, "name": "few", "steps": 0}],
        [FIRST, {**FIRST, "name": "few", "guidance": 1}],
        [FIRST, {**FIRST, "name": "few", "more": 1}],
        [FIRST, *({**FIRST, "name": f"few{each}"} for each in range(16))],
        {"usual": FIRST},
    ],
)
def test_variants_that_could_not_answer_or_be_told_apart_are_refused(variants: object):
    tree = json.loads(encode_manifest(WHOLE)) | {"variants": variants}
    with pytest.raises(Malformed):
        decode_manifest(json.dumps(tree, sort_keys=True, separators=(",", ":")).encode())


def test_only_a_variant_that_a_fog_answers_is_remote():
    assert [each.name for each in DRAFT.variants if each.is_remote] == ["teacher"]


def test_a_manifest_that_is_not_canonical_is_refused():
    data = encode_manifest(WHOLE)
    assert decode_manifest(data) == WHOLE
    for other in (data + b"\n", data.replace(b'"rank":8', b'"rank": 8'), data.replace(b"16.0", b"16.00")):
        with pytest.raises(Malformed):
            decode_manifest(other)


def test_not_a_number_and_endless_nesting_are_refused():
    data = encode_manifest(WHOLE)
    for other in (data.replace(b"0.1", b"NaN"), data.replace(b"0.1", b"1e999"), b"[" * 100_000):
        with pytest.raises(Malformed):
            decode_manifest(other)


def test_a_release_that_was_written_is_verified(published: Path):
    manifest = verify_release(published, PUBLIC)
    assert replace(manifest, files={}) == DRAFT
    assert set(manifest.files) == set(FILES)
    assert (published / "student.onnx").read_bytes() == FILES["student.onnx"]


@settings(max_examples=60)
@given(name=st.sampled_from([*FILES, "manifest.json", "manifest.sig"]), data=st.data())
def test_one_flipped_bit_anywhere_is_noticed(published: Path, name: str, data: st.DataObject):
    file = published / name
    whole = file.read_bytes()
    if not whole:
        return
    at = data.draw(st.integers(0, 8 * len(whole) - 1))
    changed = bytearray(whole)
    changed[at // 8] ^= 1 << at % 8
    file.write_bytes(changed)
    try:
        with pytest.raises((Tampered, Malformed)):
            verify_release(published, PUBLIC)
    finally:
        file.write_bytes(whole)
    assert verify_release(published, PUBLIC).version == 1


@pytest.mark.parametrize("name", [*FILES, "manifest.json", "manifest.sig"])
def test_a_missing_file_is_noticed(tmp_path: Path, name: str):
    write_release(tmp_path / "1", FILES, DRAFT, KEY)
    (tmp_path / "1" / name).unlink()
    with pytest.raises(Tampered):
        verify_release(tmp_path / "1", PUBLIC)


@pytest.mark.parametrize("extra", ["student2.onnx", ".hidden", "folder/"])
def test_a_file_nobody_signed_is_noticed(tmp_path: Path, extra: str):
    write_release(tmp_path / "1", FILES, DRAFT, KEY)
    if extra.endswith("/"):
        (tmp_path / "1" / extra).mkdir()
    else:
        (tmp_path / "1" / extra).write_bytes(b"")
    with pytest.raises(Tampered, match="not part of it"):
        verify_release(tmp_path / "1", PUBLIC)


@pytest.mark.parametrize("name", ["student.onnx", "manifest.json"])
def test_a_link_in_place_of_a_file_is_refused_even_with_the_right_bytes(tmp_path: Path, name: str):
    write_release(tmp_path / "1", FILES, DRAFT, KEY)
    (tmp_path / "1" / name).rename(tmp_path / "elsewhere")
    (tmp_path / "1" / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Tampered):
        verify_release(tmp_path / "1", PUBLIC)


def test_another_key_s_signature_is_refused(tmp_path: Path):
    write_release(tmp_path / "1", FILES, DRAFT, Ed25519PrivateKey.from_private_bytes(bytes(32)))
    with pytest.raises(Tampered, match="not signed"):
        verify_release(tmp_path / "1", PUBLIC)
    with pytest.raises(Tampered):
        verify_manifest(encode_manifest(DRAFT), b"", PUBLIC)
    with pytest.raises(Tampered):
        verify_manifest(encode_manifest(DRAFT), KEY.sign(encode_manifest(DRAFT)), PUBLIC[:31])


def test_a_folder_that_is_not_there_is_one_clear_error(tmp_path: Path):
    with pytest.raises(Tampered, match="cannot be read"):
        verify_release(tmp_path / "nowhere", PUBLIC)


@pytest.mark.parametrize("name", ["../evil", "a/b", "..", "manifest.json", "manifest.sig", "", "A.onnx", "a\n"])
def test_a_file_name_that_leads_elsewhere_is_never_written(tmp_path: Path, name: str):
    with pytest.raises(Malformed):
        write_release(tmp_path / "1", {**FILES, name: b"x"}, DRAFT, KEY)
    assert list(tmp_path.iterdir()) == []


def test_a_published_release_is_never_written_over(tmp_path: Path):
    write_release(tmp_path / "1", FILES, DRAFT, KEY)
    with pytest.raises(StateError, match="never written over"):
        write_release(tmp_path / "1", {**FILES, "student.onnx": b"other"}, DRAFT, KEY)
    assert verify_release(tmp_path / "1", PUBLIC).files.keys() == FILES.keys()


def test_a_half_written_release_of_a_killed_process_is_no_obstacle(tmp_path: Path):
    (tmp_path / ".1.draft").mkdir()
    (tmp_path / ".1.draft" / "left_over.bin").write_bytes(b"x")
    write_release(tmp_path / "1", FILES, DRAFT, KEY)
    assert verify_release(tmp_path / "1", PUBLIC).version == 1


def test_the_public_key_is_read_back_from_its_text(tmp_path: Path):
    (tmp_path / "release.pub").write_text(PUBLIC.hex() + "\n")
    assert read_release_key(tmp_path / "release.pub") == PUBLIC
    (tmp_path / "release.pub").write_text("-----BEGIN PUBLIC KEY-----")
    with pytest.raises(ConfigError, match="64 hex digits"):
        read_release_key(tmp_path / "release.pub")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_release_key(tmp_path / "nowhere")
