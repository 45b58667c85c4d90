import gzip
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cloud_server.drivers.digits import load_digits, parted
from learning_core.errors import ConfigError, Malformed
from learning_core.models.flow_image import FlowImageConfig
from simulations.bench.continual import flow_digits, flow_mnist, omniglot
from simulations.bench.continual.data_images import (
    FASHION,
    MNIST,
    OMNIGLOT,
    idx,
    load_fashion,
    load_mnist,
    load_omniglot,
    scaled,
)
from simulations.bench.continual.image_pages import contact_sheet
from simulations.bench.continual.image_steps import (
    Protocol,
    all_methods,
    by_seed,
    founded,
    only,
)
from simulations.bench.continual.part import Part

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
SMALL = Protocol(
    config=FlowImageConfig(width=16, depth=1, heads=2),
    base_steps=2,
    base_rate=2e-2,
    rank=2,
    alpha=4.0,
    steps=2,
    learning_rate=1e-2,
    batch=8,
    guidance=1.5,
    sampling_steps=2,
    images_per_condition=4,
)


@pytest.fixture(scope="module")
def result() -> dict:
    """One seed of the protocol, far too small to learn anything."""
    train, held_out = parted(load_digits(), 0, 0.2)
    few = only(train, range(10))
    world = founded(SMALL, few, held_out, 0, judge_epochs=1)
    found, last = all_methods(world, 0)
    few_steps = flow_digits.few_steps(world, last, 0, num_pairs=20, training_steps=2)
    return found | {"reflow": few_steps, "sheet": contact_sheet(world, last, 0)}


def test_every_method_has_a_whole_matrix_and_starts_from_the_same_base(result):
    matrices = [np.array(result["methods"][name]["matrix"]) for name in ("distilled", "naive", "generative replay")]
    assert {matrix.shape for matrix in matrices} == {(4, 3)}
    assert all((matrix[:2] == matrices[0][:2]).all() for matrix in matrices)
    assert "matrix" not in result["methods"]["joint"]


def test_a_drop_is_what_a_group_has_lost_since_it_was_learned():
    row = {
        "matrix": [[0, 0, 0], [1.0, 0, 0], [0.99, 0.9, 0], [0.97, 0.88, 0.95]],
        "fidelity": [1.0] * 9 + [0.5],
        "old": {"kid": 0.05},
    }
    found = by_seed([{"methods": {"distilled": row}, "before": {"kid": 0.02}}])
    expected = {"fidelity": [0.95], "base_drop": [0.03], "step_drop": [0.02], "kid_drift": [0.03]}
    assert {name: pytest.approx(value) for name, value in found.items()} == expected


@pytest.mark.parametrize(
    ("part", "claims"),
    [
        (
            flow_digits,
            ["continual.flow_digits.fidelity", "continual.flow_digits.old_drop", "continual.flow_digits.kid_drift"],
        ),
        (flow_mnist, ["continual.flow_mnist.fidelity"]),
    ],
)
def test_the_parts_turn_results_into_claims_and_pictures(result, part, claims):
    found = part.summarise([result, result], None)
    assert isinstance(found, Part)
    assert [claim.id for claim in found.claims] == claims
    assert sum(section.startswith("<img") for section in found.sections.values()) == 2
    assert [set(row) for row in found.figures["per_seed"]] == [{"methods", "before", "reflow"}] * 2
    assert len(found.figures["metrics"]["naive"]["forgetting"]) == 2


def test_an_idx_file_is_its_sizes_and_then_its_bytes():
    content = bytes((0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3, 1, 2, 3, 4, 5, 6))
    assert idx(content, "it").tolist() == [[1, 2, 3], [4, 5, 6]]
    assert scaled(np.array([[[0, 255]]], np.uint8)).tolist() == [[[[-1.0, 1.0]]]]


@pytest.mark.parametrize(
    "content", [b"", b"\0\0\x08", b"\0\0\x0d\x01\0\0\0\x01\0", b"\0\0\x08\x02\0\0\0\x01", b"\0\0\x08\x01\0\0\0\x02\0"]
)
def test_anything_else_is_no_idx_file(content):
    with pytest.raises(Malformed, match="the file"):
        idx(content, "the file")


def test_images_without_as_many_labels_are_refused(tmp_path):
    folder = tmp_path / "mnist_t10k"
    folder.mkdir()
    (folder / MNIST[0]).write_bytes(gzip.compress(bytes((0, 0, 8, 3, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 7))))
    (folder / MNIST[1]).write_bytes(gzip.compress(bytes((0, 0, 8, 1, 0, 0, 0, 2, 0, 1))))
    with pytest.raises(Malformed, match="do not fit"):
        load_mnist(tmp_path)


@pytest.mark.parametrize(
    "arrays",
    [
        {"x": np.zeros((2, 4, 4), np.uint8)},
        {"x": np.zeros((2, 4, 4), np.uint8), "y": np.zeros(3, np.int64)},
        {"x": np.array([{}], object), "y": np.zeros(1, np.int64)},
    ],
)
def test_an_archive_of_anything_but_images_and_their_labels_is_refused(tmp_path, arrays):
    (tmp_path / "fashion_mnist_3615").mkdir()
    np.savez(tmp_path / "fashion_mnist_3615" / FASHION, **arrays)
    with pytest.raises(Malformed, match=FASHION):
        load_fashion(tmp_path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"there is no .*t10k-images.*--data names the folder that holds mnist_t10k/"):
        load_mnist(tmp_path)
    with pytest.raises(ConfigError, match="give the folder that holds mnist_t10k/ with --data"):
        flow_mnist.run_seed(0, None)


@pytest.mark.skipif(not (SHARED / "mnist_t10k").is_dir(), reason="the MNIST files are not here")
def test_mnist_is_ten_thousand_images_of_ten_digits():
    found = load_mnist(SHARED)
    assert found.features.shape == (10_000, 1, 28, 28)
    assert (found.features.min(), found.features.max()) == (-1.0, 1.0)
    assert set(found.conditions.tolist()) == set(range(10))


def drawing() -> bytes:
    """Six by six pixels, white but for a black corner of two by two."""
    pixels = np.full((6, 6), 255, np.uint8)
    pixels[:2, :2] = 0
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def put_omniglot(data: Path, files: dict[str, bytes]) -> None:
    folder = data / "omniglot"
    folder.mkdir()
    for name in OMNIGLOT:
        with zipfile.ZipFile(folder / name, "w") as archive:
            for path, content in files.items() if name == OMNIGLOT[0] else ():
                archive.writestr(path, content)


def test_omniglot_gives_each_drawing_its_character_and_its_drawer(tmp_path):
    put_omniglot(tmp_path, {"small/Latin/character02/0302_17.png": drawing(), "small/Greek/character01/1_01.png": b""})
    found = load_omniglot(tmp_path, "Latin", 3)
    assert (found.samples.conditions.tolist(), found.drawers.tolist()) == ([1], [17])
    assert found.samples.features[0, 0].tolist() == [[1, -1, -1], [-1, -1, -1], [-1, -1, -1]]


def test_an_alphabet_that_is_not_there_and_a_drawing_that_is_none_are_named(tmp_path):
    put_omniglot(tmp_path, {"small/Latin/character01/0301_01.png": b"no image"})
    with pytest.raises(ConfigError, match="no alphabet 'Klingon'"):
        load_omniglot(tmp_path, "Klingon", 3)
    with pytest.raises(Malformed, match=r"0301_01\.png is not a PNG image"):
        load_omniglot(tmp_path, "Latin", 3)


def test_a_hand_is_compared_with_what_the_base_made_of_it():
    rows = [
        {"user": 1, "kind": kind, "before": (0.5, 0.4), "after": after}
        for kind, after in (("naive", (0.4, 0.5)), ("distilled", (0.45, 0.4)))
    ]
    part = omniglot.summarise([{"rows": rows}], None)
    assert part.claims == []
    assert part.figures["by_method"]["naive"]["gain"][0] == pytest.approx(0.2)
    assert part.figures["by_method"]["naive"]["forgetting"][0] == pytest.approx(0.25)
    assert part.figures["by_method"]["distilled"]["forgetting"][0] == pytest.approx(0.0)
