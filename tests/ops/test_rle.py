"""COCO run-length coding against strings that pycocotools 2.0 wrote, and against pycocotools itself when installed."""

import numpy as np
import pytest

from sam2core.ops import rle


def shapes() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    y, x = np.mgrid[:60, :80]
    return {
        "empty": np.zeros((5, 7), bool),
        "full": np.ones((5, 7), bool),
        "one pixel": np.ones((1, 1), bool),
        "no pixel": np.zeros((1, 1), bool),
        "corner": np.pad(np.ones((1, 1), bool), ((0, 3), (0, 4))),
        "last": np.pad(np.ones((1, 1), bool), ((3, 0), (4, 0))),
        "disc": (x - 30) ** 2 + (y - 25) ** 2 < 400,
        "ring": abs(np.hypot(x - 40, y - 30) - 20) < 3,
        "noise": rng.random((37, 41)) > 0.5,
        "stripes": np.arange(64)[None].repeat(48, 0) % 2 == 0,
        "far apart": np.pad(np.ones((2, 2), bool), ((900, 700), (1000, 600))),
    }


# written by pycocotools.mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]
STORED = {
    "empty": "S1",
    "full": "0S1",
    "one pixel": "01",
    "no pixel": "1",
    "corner": "01c0",
    "last": "c01",
    "disc": "We0=]14L4M2M4M2N2O0O2N2O0O2O0O2O000000000000000000000001N101N101N2N101N2N3L3N3L4Lgg1",
    "ring": (
        "`R1=\\16K4M2M4MBSO0k0L_O0?NG070K04ON01O30K150JO80G0;0DO>0B0>0A1?0@Ob00^O0b00^O0b00^O0b00^O0"
        "b00^OOd00\\O1b00^O0b00^O0b00^O0b00^O0b00^O1`00AO?0B0>0B1<0E090H160KO50M1O021L050I092A0a04UO"
        "0m0>3L3N3L5JWo0"
    ),
    "stripes": "0`1`100000000000000000000000000000000000000000000000000000000000000",
    "far apart": "dZm`12Pb10\\iYm0",
}


@pytest.mark.parametrize("name", shapes())
def test_round_trip(name):
    mask = shapes()[name]
    coded = rle.encode(mask)
    assert coded["size"] == list(mask.shape)
    np.testing.assert_array_equal(rle.decode(coded), mask)
    assert rle.area(coded) == mask.sum()


@pytest.mark.parametrize("name", STORED)
def test_strings_equal_those_of_pycocotools(name):
    assert rle.encode(shapes()[name])["counts"] == STORED[name]


@pytest.mark.parity
def test_live_against_pycocotools():
    official = pytest.importorskip("pycocotools.mask")
    for mask in shapes().values():
        theirs = official.encode(np.asfortranarray(mask.astype(np.uint8)))
        assert rle.encode(mask)["counts"].encode() == theirs["counts"]
        np.testing.assert_array_equal(rle.decode(theirs), official.decode(theirs).astype(bool))


def test_bytes_and_plain_counts_are_read_too():
    mask = shapes()["ring"]
    coded = rle.encode(mask)
    np.testing.assert_array_equal(rle.decode({**coded, "counts": coded["counts"].encode()}), mask)
    np.testing.assert_array_equal(rle.decode({**coded, "counts": rle.runs(mask).tolist()}), mask)


def test_long_runs_survive_compression():
    counts = [0, 2**31, 5, 2**40, 1, 3, 2**33]
    assert rle.decompress(rle.compress(counts)).tolist() == counts


@pytest.mark.parametrize(
    "coded, complaint",
    [
        ({"size": [2, 2], "counts": "P"}, "middle of a number"),
        ({"size": [2, 2], "counts": "~"}, "outside"),
        ({"size": [2, 2], "counts": "3"}, "cover 3 pixels, its size is 2 x 2"),
        ({"size": [2, 2]}, "'size' and 'counts'"),
    ],
)
def test_damaged_input_is_refused(coded, complaint):
    with pytest.raises(ValueError, match=complaint):
        rle.decode(coded)


@pytest.mark.parametrize("mask", [np.zeros((2, 2, 2), bool), np.zeros((2, 2), np.float32)])
def test_only_flat_masks_are_coded(mask):
    with pytest.raises(ValueError, match="a mask is"):
        rle.encode(mask)
