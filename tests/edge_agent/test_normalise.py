"""Images, text and vectors from different tools become what a release takes, by arithmetic one can check by hand."""

import contextlib
import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edge_agent.normalise.image_files import read_image
from edge_agent.normalise.pictures import Span, area_averaged, channels_first, coloured, picture, signed
from edge_agent.normalise.texts import tokens
from edge_agent.normalise.vectors import vector
from edge_agent.normalise.wanted import Conversions, Picture, Vector, Words, rows_of, wanted_of
from edge_agent.png import png_of
from learning_core.errors import Malformed

ANY_ARRAY = arrays.arrays(
    st.sampled_from([np.uint8, np.float32, np.float64, np.int64, np.bool_, np.float16]),
    arrays.array_shapes(min_dims=1, max_dims=4, max_side=6),
)


def test_bytes_and_floats_of_every_span_mean_the_same():
    grey = np.array([[0, 255], [51, 204]], np.uint8)
    wanted = [[[-1.0, 1.0], [-0.6, 0.6]]]
    for raw, span in (
        (grey, Span.SIGNED),
        (grey / 255, Span.UNIT),
        (grey.astype(np.float32), Span.BYTE),
        (grey / 127.5 - 1, Span.SIGNED),
    ):
        np.testing.assert_allclose(picture(raw, (1, 2, 2), span, resize=False), wanted, atol=1e-6)


@pytest.mark.parametrize("span", [Span.SIGNED, Span.UNIT])
def test_a_span_that_cannot_be_is_refused_and_names_the_setting(span):
    with pytest.raises(Malformed, match=r"set source\.floats"):
        picture(np.full((2, 2), 200.0), (1, 2, 2), span, resize=False)


def test_the_axis_of_colours_is_found_or_asked_for():
    wide = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    np.testing.assert_array_equal(channels_first(wide, (3, 2, 4)), wide.transpose(2, 0, 1))
    assert channels_first(wide.transpose(2, 0, 1), (3, 2, 4)).shape == (3, 2, 4)
    assert channels_first(np.zeros((3, 8, 3)), (3, 3, 8)).shape == (3, 3, 8)
    assert channels_first(np.zeros((3, 8, 3)), (3, 8, 3)).shape == (3, 8, 3)
    with pytest.raises(Malformed, match="which axis is colour"):
        channels_first(np.zeros((3, 8, 3)), (3, 5, 5))
    with pytest.raises(Malformed, match="transparency"):
        channels_first(np.zeros((8, 8, 4)), (3, 8, 8))


def test_grey_becomes_three_equal_colours_and_colours_their_luma():
    pure = np.array([1.0, 0.0, -1.0], np.float32).reshape(3, 1, 1)
    np.testing.assert_allclose(coloured(pure, 1), [[[0.299 - 0.114]]], atol=1e-6)
    np.testing.assert_array_equal(coloured(np.full((1, 1, 1), 0.5, np.float32), 3), np.full((3, 1, 1), 0.5))


def test_a_smaller_image_holds_the_means_of_the_areas():
    image = np.array([[[1.0, 3.0, 5.0, 7.0]]], np.float32)
    np.testing.assert_allclose(area_averaged(image, 1, 2), [[[2.0, 6.0]]])
    np.testing.assert_allclose(area_averaged(image[:, :, :3], 1, 2), [[[(1 + 1.5) / 1.5, (1.5 + 5) / 1.5]]])


@settings(max_examples=60, deadline=None)
@given(
    arrays.arrays(
        np.float32, st.tuples(st.just(1), st.integers(1, 9), st.integers(1, 9)), elements=st.floats(-1, 1, width=32)
    ),
    st.integers(1, 9),
    st.integers(1, 9),
)
def test_another_size_keeps_the_mean_and_the_range(image, height, width):
    made = area_averaged(image, height, width)
    assert made.shape == (1, height, width)
    assert abs(float(made.mean()) - float(image.mean())) < 1e-5
    assert image.min() - 1e-6 <= made.min() <= made.max() <= image.max() + 1e-6


def test_a_wrong_size_is_refused_unless_a_person_allows_it():
    with pytest.raises(Malformed, match=r"4 x 4 and the release takes 2 x 2; .*source\.resize = true"):
        picture(np.zeros((4, 4), np.uint8), (1, 2, 2), Span.SIGNED, resize=False)
    assert picture(np.zeros((4, 4), np.uint8), (1, 2, 2), Span.SIGNED, resize=True).tolist() == [[[-1, -1], [-1, -1]]]


@settings(max_examples=200, deadline=None)
@given(ANY_ARRAY, st.sampled_from(list(Span)), st.booleans(), st.sampled_from([(1, 4, 4), (3, 2, 5), (4,)]))
def test_whatever_array_comes_becomes_what_is_wanted_or_malformed(raw, span, resize, shape):
    try:
        with np.errstate(all="ignore"):
            made = rows_of(raw, wanted_of(shape), Conversions(resize=resize), span)
    except Malformed:
        return
    assert made.shape == (1, *shape)
    assert made.dtype == np.float32
    assert np.isfinite(made).all()


def test_signed_leaves_what_is_signed_alone():
    values = np.array([[[-1.5, 0.25]]], np.float32)  # standardised elsewhere, a little outside
    np.testing.assert_array_equal(signed(values, Span.SIGNED), values)


def test_text_is_bytes_in_rows_of_one_context():
    assert tokens("abcde", 4).tolist() == [[97, 98, 99, 100], [101, 0, 0, 0]]
    np.testing.assert_array_equal(tokens("e\u0301", 4), tokens("\u00e9", 4))


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=40), st.integers(1, 9))
def test_any_text_can_be_read_back_or_is_malformed(text, context):
    try:
        rows = tokens(text, context)
    except Malformed:
        return
    assert rows.shape[1] == context
    assert bytes(rows.astype(np.uint8).ravel()).rstrip(b"\0").decode().strip()


@pytest.mark.parametrize("text", ["", " \n", "a\0b", "\x1b[2J", "\ud800", "x" * 70_000])
def test_a_text_that_is_none_is_refused(text):
    with pytest.raises(Malformed, match="text"):
        tokens(text, 8)


def test_a_vector_is_standardised_as_the_settings_say():
    made = vector(np.array([[3.0, 10.0]]), 2, mean=(1, 2), spread=(2, 4))
    np.testing.assert_array_equal(made, np.array([1.0, 2.0], np.float32))
    for bad, said in (([1.0], "2 in a row"), ([1.0, np.nan], "finite"), ([1e300, 0], "finite")):
        with pytest.raises(Malformed, match=said):
            vector(np.array(bad), 2)
    with pytest.raises(Malformed, match="not 2"):
        vector(np.zeros(2), 2, mean=(1,), spread=(1,))


def test_what_goes_where_is_decided_by_the_shape_of_a_sample():
    assert wanted_of((1, 8, 8)) == Picture(1, 8, 8)
    assert (wanted_of((5,)), wanted_of((5,), text=True)) == (Vector(5), Words(5))
    assert rows_of("hello you", Words(4), Conversions()).shape == (3, 4)
    known = rows_of(np.array([3.0]), Vector(1), Conversions(mean=(1.0,), spread=(2.0,)), Span.SIGNED)
    assert known.tolist() == [[3.0]]  # who states a span has standardised it already
    with pytest.raises(Malformed, match="takes samples of the shape"):
        wanted_of((1, 8, 8), text=True)
    with pytest.raises(Malformed, match="takes text"):
        rows_of(np.zeros(3), Words(3), Conversions())


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(pixels, filters, **head):
    """A PNG file of [H, W] or [H, W, 3], each line under the filter named for it (ISO/IEC 15948, clause 9)."""
    rows = pixels.reshape(len(pixels), -1).astype(int)
    step = 1 if pixels.ndim == 2 else 3
    lines = b""
    for at, kind in enumerate(filters):
        line = rows[at]
        above = rows[at - 1] if at else np.zeros_like(line)
        left = np.concatenate((np.zeros(step, int), line[:-step]))
        corner = np.concatenate((np.zeros(step, int), above[:-step]))
        guess = left + above - corner
        far = np.abs(guess - np.stack((left, above, corner)))
        paeth = np.where((far[0] <= far[1]) & (far[0] <= far[2]), left, np.where(far[1] <= far[2], above, corner))
        lines += (
            bytes([kind])
            + ((line - (0, left, above, (left + above) // 2, paeth)[kind]) % 256).astype(np.uint8).tobytes()
        )
    header = {"width": pixels.shape[1], "height": len(pixels), "depth": 8, "colour": 0 if step == 1 else 2} | head
    fields = (header["width"], header["height"], header["depth"], header["colour"], 0, 0, header.get("interlaced", 0))
    parts = chunk(b"IHDR", struct.pack(">IIBBBBB", *fields)), chunk(b"IDAT", zlib.compress(lines)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@settings(max_examples=50, deadline=None)
@given(
    arrays.arrays(
        np.uint8,
        st.tuples(st.integers(1, 11), st.integers(1, 11))
        | st.tuples(st.integers(1, 11), st.integers(1, 11), st.just(3)),
    ),
    st.data(),
)
def test_a_png_of_any_filters_gives_its_pixels_back(pixels, data):
    filters = data.draw(st.lists(st.integers(0, 4), min_size=len(pixels), max_size=len(pixels)))
    np.testing.assert_array_equal(read_image(png(pixels, filters)), pixels)


def test_what_the_agent_draws_it_can_read():
    drawn = np.random.default_rng(0).uniform(-1, 1, (1, 3, 5, 4)).astype(np.float32)
    again = picture(read_image(png_of(drawn, zoom=1)), (3, 5, 4), Span.SIGNED, resize=False)
    np.testing.assert_allclose(again, drawn[0], atol=1 / 127)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\xff\xd8\xff\xe0", "JPEG files are not read"),
        (b"GIF89a", "no image that is read"),
        (png(np.zeros((2, 2), np.uint8), [0, 0], interlaced=1), "interlaced"),
        (png(np.zeros((2, 2), np.uint8), [0, 0], colour=3), "palette"),
        (png(np.zeros((2, 2), np.uint8), [0, 0], depth=16), "8-bit"),
        (png(np.zeros((2, 2), np.uint8), [0, 0], width=1 << 20, height=1 << 20), "not within"),
        (png(np.zeros((2, 2), np.uint8), [0, 0], height=3), "another number of pixels"),
        (png(np.zeros((2, 2), np.uint8), [0, 0])[:-14], "ends before its end"),
        (png(np.zeros((2, 2), np.uint8), [0, 0]).replace(b"IDAT", b"IDAX"), "a sum does not fit"),
        (b"P5 2 2 65535\n" + b"\0" * 8, "8 bits"),
        (b"P5 2 2 255\n\0", "1 bytes of pixels"),
    ],
)
def test_an_image_file_that_is_not_read_says_why(data, said):
    with pytest.raises(Malformed, match=said):
        read_image(data)


def test_a_bomb_takes_no_memory():
    lines = zlib.compress(b"\0" * (1 << 26), 9)
    head = struct.pack(">IIBBBBB", 2, 2, 8, 0, 0, 0, 0)
    with pytest.raises(Malformed, match="another number"):
        read_image(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", lines) + chunk(b"IEND", b""))


def test_netpbm_with_comments_and_npy_of_either_order():
    np.testing.assert_array_equal(read_image(b"P5\n# a camera\n2 1\n255\n\x07\x08"), [[7, 8]])
    assert read_image(b"P6 1 1 255\n\1\2\3").tolist() == [[[1, 2, 3]]]
    for array in (np.arange(6, dtype=np.uint8).reshape(2, 3), np.asfortranarray(np.eye(3, dtype=np.float32))):
        file = io.BytesIO()
        np.save(file, array)
        np.testing.assert_array_equal(read_image(file.getvalue()), array)
    for odd in (np.array([object()]), np.zeros(2, "M8[s]"), np.zeros(2, ">f4"), np.float32(1)):
        file = io.BytesIO()
        np.save(file, odd)
        with pytest.raises(Malformed, match="of NPY"):
            read_image(file.getvalue())


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_bytes_are_an_image_or_malformed(data):
    whole = data.draw(
        st.sampled_from(
            [
                png(np.arange(12, dtype=np.uint8).reshape(2, 2, 3), [4, 3]),
                b"P5 2 2 255\n1234",
                b"\x93NUMPY\x01\0v\0{'descr': '<f4', 'fortran_order': False, 'shape': (1, 1), }" + b" " * 60,
                b"",
            ]
        )
    )
    mangled = bytearray(whole + data.draw(st.binary(max_size=20)))
    for _ in range(data.draw(st.integers(0, 4))):
        if mangled:
            mangled[data.draw(st.integers(0, len(mangled) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(Malformed):
        assert read_image(bytes(mangled[: data.draw(st.integers(0, len(mangled)))])).size > 0
