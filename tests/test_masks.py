"""Masks as values: boxes, COCO codes that anybody can read, and mask pictures of every kind that people have."""

import io
import zlib

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco
from scipy import ndimage

from masklet.errors import BadPrompt
from masklet.masks import FrameMasks, box_of, decode_rle, encode_rle, read_mask

HEIGHT, WIDTH = 24, 32
SIZE = {"height": HEIGHT, "width": WIDTH}


def blob(seed=0, height=HEIGHT, width=WIDTH):
    return ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(height, width)), 2) > 0


def pixel(y, x):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[y, x] = True
    return mask


EMPTY, FULL = np.zeros((HEIGHT, WIDTH), bool), np.ones((HEIGHT, WIDTH), bool)


# Values


def test_an_objects_mask_is_found_by_its_name():
    ones = np.ones(2, np.float32)
    masks = FrameMasks(3, 0.1, ("dog", "cat"), np.stack([FULL, EMPTY]), object_scores=ones, ious=ones)
    assert masks["dog"].all()
    assert not masks["cat"].any()
    with pytest.raises(KeyError, match=r"frame 3 has no object 'cow', only \['dog', 'cat'\]"):
        masks["cow"]


@pytest.mark.parametrize(
    ("mask", "box"),
    [
        (EMPTY, None),
        (FULL, (0, 0, 32, 24)),
        (pixel(0, 0), (0, 0, 1, 1)),
        (pixel(23, 31), (31, 23, 32, 24)),
        (pixel(2, 5) | pixel(7, 3), (3, 2, 6, 8)),
    ],
    ids=["empty", "full", "first", "last", "two"],
)
def test_a_box_is_the_smallest_with_exclusive_ends(mask, box):
    assert box_of(mask) == box


# COCO's run-length codes


@pytest.mark.parametrize(
    "mask",
    [EMPTY, FULL, pixel(0, 0), pixel(23, 31), ~pixel(0, 0), blob(), blob(1, 1, 1), blob(2, 1, 40), blob(4, 480, 854)],
)
@pytest.mark.filterwarnings("ignore:__array__ implementation")  # pycocotools 2.0.11 under numpy 2
def test_codes_are_those_of_pycocotools_both_ways(mask):
    code = encode_rle(mask)
    theirs = coco.encode(np.asfortranarray(mask, np.uint8))
    assert code == {"size": list(mask.shape), "counts": theirs["counts"].decode()}
    decoded = decode_rle(code)
    assert decoded.dtype == bool
    assert np.array_equal(decoded, coco.decode(theirs))
    assert np.array_equal(decoded, mask)


def test_a_known_code_is_read():
    # Three of background, two of object, one of background, down the columns: 3 2 1 -> '3', '2', '1'.
    assert decode_rle({"size": [3, 2], "counts": "321"}).tolist() == [[False, True], [False, True], [False, False]]
    assert encode_rle(decode_rle({"size": [3, 2], "counts": "321"}))["counts"] == "321"


@pytest.mark.parametrize(
    ("size", "counts", "message"),
    [
        ([3, 2], "", "cut short or holds other characters"),
        ([3, 2], "32Q", "cut short"),  # the last group promises another
        ([3, 2], "3 1", "other characters"),
        ([3, 2], "3é1", "other characters"),
        ([3, 2], "32", "does not describe 3x2 pixels"),
        ([3, 2], "322", "does not describe 3x2 pixels"),
        ([3, 2], "7O", "does not describe 3x2 pixels"),  # 7 - 1
        ([3, 2], "o" * 9 + "0", "longer than any picture"),
        ([10**9, 10**9], "321", "does not describe 1000000000x1000000000 pixels"),
    ],
)
def test_a_damaged_code_is_refused(size, counts, message):
    with pytest.raises(ValueError, match=message):
        decode_rle({"size": size, "counts": counts})


# Mask pictures


def palette(mask):
    image = Image.fromarray(np.where(mask, 3, 0).astype(np.uint8))
    image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0])
    return image


def numbers_on_white(mask):
    image = Image.fromarray(np.where(mask, 1, 0).astype(np.uint8))
    image.putpalette([255, 255, 255, 128, 0, 0])
    return image


def grey_palette(mask, *colours):
    """Return a picture whose palette has these greys, as programs write them that save bytes."""
    image = Image.fromarray(np.where(mask, colours.index(255), colours.index(0)).astype(np.uint8))
    image.putpalette([level for colour in colours for level in [colour] * 3])
    return image


def grey(mask, on=255, off=0):
    return Image.fromarray(np.where(mask, on, off).astype(np.uint8))


def with_alpha(mode, colour, alpha):
    image = colour.convert(mode)
    image.putalpha(alpha)
    return image


KINDS = {
    "0 and 255": lambda m: grey(m),
    "just above and just at half": lambda m: grey(m, 128, 127),
    "one bit": lambda m: Image.fromarray(m),
    "a palette's indices": palette,
    "a grey palette that begins with black": lambda m: grey_palette(m, 0, 255),
    "a grey palette that begins with white": lambda m: grey_palette(m, 255, 0),
    "a grey palette with smooth edges": lambda m: grey_palette(m, 60, 255, 0),
    "numbers whose palette shows them as grey": lambda m: Image.fromarray(m.astype(np.uint8), "P"),
    "numbers on white": lambda m: numbers_on_white(m),
    "as few colours as it needs": lambda m: grey(m).convert("RGB").quantize(2),
    "colours": lambda m: grey(m).convert("RGB"),
    "16 bits": lambda m: Image.fromarray(np.where(m, 65535, 0).astype(np.uint16)),
    "16 bits, just above and just at half": lambda m: Image.fromarray(np.where(m, 32768, 32767).astype(np.uint16)),
    "black and white behind a transparency that hides nothing": lambda m: with_alpha("RGBA", grey(m), grey(FULL)),
    "grey behind a transparency that hides nothing": lambda m: with_alpha("LA", grey(m), grey(FULL)),
    "cut out": lambda m: with_alpha("RGBA", grey(blob(7)), grey(m)),
    "cut out, half transparent outside": lambda m: with_alpha("RGBA", grey(FULL), grey(m, 128, 127)),
    "grey, cut out": lambda m: with_alpha("LA", grey(EMPTY), grey(m)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_mask_picture_of_every_kind_is_read(tmp_path, kind):
    KINDS[kind](blob()).save(tmp_path / "mask.png")
    mask = read_mask(tmp_path / "mask.png", **SIZE)
    assert mask.dtype == bool
    assert np.array_equal(mask, blob())


@pytest.mark.parametrize("suffix", ["bmp", "gif", "tiff", "webp"])
def test_other_lossless_pictures_are_masks_too(tmp_path, suffix):
    options = {"lossless": True} if suffix == "webp" else {}
    grey(blob()).save(tmp_path / f"mask.{suffix}", **options)
    mask = read_mask(tmp_path / f"mask.{suffix}", **SIZE)
    assert np.array_equal(mask, blob())


def test_a_jpeg_is_read_but_for_its_smear(tmp_path):
    grey(blob()).save(tmp_path / "mask.jpg", quality=95)
    assert np.count_nonzero(read_mask(tmp_path / "mask.jpg", **SIZE) ^ blob()) <= 2


def missing(path):
    pass


def folder(path):
    path.mkdir()


def empty_file(path):
    path.write_bytes(b"")


def text(path):
    path.write_text("not a picture")


def cut_short(path):
    held = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH), np.uint8)).save(held, "PNG")
    path.write_bytes(held.getvalue()[:-100])


def postscript(path):
    grey(blob()).save(path, "EPS")


def rare(path):
    grey(blob()).save(path, "TGA")


def other_size(path):
    Image.new("L", (31, 24)).save(path)


def zero_and_one(path):
    grey(blob(), on=1).save(path)


def zero_and_one_of_16_bits(path):
    Image.fromarray(blob().astype(np.uint16)).save(path)


def zero_and_one_in_floats(path):
    Image.fromarray(blob().astype(np.float32)).save(path, "TIFF")


def bomb(path, side_px=100_000):
    """Write a header that promises so many pixels a side."""
    held = io.BytesIO()
    Image.new("1", (1, 1)).save(held, "PNG")
    data = bytearray(held.getvalue())
    data[16:24] = side_px.to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (missing, "does not exist: give an existing picture"),
        (folder, "Is a directory"),
        (empty_file, "cannot be read"),
        (text, "): give a PNG of the video's size"),
        (cut_short, "cannot be read"),
        (postscript, "cannot be read"),  # Pillow would start another program for it
        (rare, "cannot be read"),  # Pillow could, and few look at how
        (bomb, "cannot be read"),
        (lambda path: bomb(path, 10_000), "cannot be read"),
        (zero_and_one, "no pixel brighter than half, the brightest is 1 of 255: save it with white"),
        (zero_and_one_of_16_bits, "no pixel brighter than half, the brightest is 1 of 65535: save it with white"),
        (zero_and_one_in_floats, "no pixel brighter than half, the brightest is 1 of 255: save it with white"),
        (other_size, "is 31x24, but the video is 32x24: give a mask of the video's size"),
    ],
)
def test_a_picture_that_is_no_mask_of_the_video_is_refused(tmp_path, make, message):
    make(tmp_path / "mask.png")
    with pytest.raises(BadPrompt) as refusal:
        read_mask(tmp_path / "mask.png", **SIZE)
    assert f"mask {tmp_path / 'mask.png'} " in str(refusal.value)
    assert message in str(refusal.value)
    assert "(mask " not in str(refusal.value), "one refusal inside another"


def test_a_black_picture_says_that_nothing_is_there(tmp_path):
    grey(EMPTY).save(tmp_path / "mask.png")
    assert not read_mask(tmp_path / "mask.png", **SIZE).any()
