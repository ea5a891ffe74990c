"""Pictures: masks tint what they cover and nothing else, prompts land where they were given."""

import numpy as np
import pytest

from sam2core.predictors.render import overlay, palette


@pytest.fixture
def photograph():
    return np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8)


def disc(x, y, radius=12):
    grid = np.mgrid[:90, :120]
    return np.hypot(grid[0] - y, grid[1] - x) < radius


def test_a_mask_tints_its_inside_and_leaves_the_rest_alone(photograph):
    mask = disc(60, 45)
    drawn = overlay(photograph, [mask], colors=[(255, 0, 0)], opacity=0.5, contour=0)
    np.testing.assert_array_equal(drawn[~mask], photograph[~mask])
    np.testing.assert_allclose(drawn[mask], photograph[mask] * 0.5 + np.array([127.5, 0, 0]), atol=1)


def test_the_contour_runs_along_the_border(photograph):
    mask = disc(60, 45)
    drawn = overlay(photograph, [mask], colors=[(0, 0, 255)], opacity=0, contour=2)
    changed = (drawn != photograph).any(-1)
    assert changed.any()
    distance = abs(np.hypot(np.mgrid[:90, :120][0] - 45, np.mgrid[:90, :120][1] - 60) - 12)
    assert distance[changed].max() < 5
    assert changed[45, 71] or changed[45, 72]


def test_the_photograph_is_not_written_to(photograph):
    before = photograph.copy()
    overlay(photograph, [disc(5, 5)], points=[(10, 10)], boxes=[(1, 1, 30, 30)])
    np.testing.assert_array_equal(photograph, before)


def test_points_are_green_inside_and_red_outside():
    drawn = overlay(np.zeros((90, 120, 3), np.uint8), points=[(30, 40), (80, 40)], labels=[1, 0]).astype(int)
    assert drawn[40 - 3, 30 + 2, 1] > 100 > drawn[40 - 3, 30 + 2, 0]
    assert drawn[40 - 3, 80 + 2, 0] > 100 > drawn[40 - 3, 80 + 2, 1]
    assert not drawn[60:].any()


def test_what_lies_outside_is_clipped_without_complaint(photograph):
    overlay(photograph, points=[(-40, 5), (119.5, 89.5), (400, 400)], boxes=[(-10, -10, 500, 500)])


def test_edges_of_the_picture_and_empty_and_full_masks(photograph):
    drawn = overlay(photograph, [np.zeros((90, 120), bool)])
    np.testing.assert_array_equal(drawn, photograph)
    full = overlay(photograph, [np.ones((90, 120), bool)])
    assert (full != photograph).any(-1).mean() > 0.95
    assert overlay(photograph, [disc(0, 0)]).shape == photograph.shape


def test_grey_pictures_become_colour():
    assert overlay(np.zeros((90, 120), np.uint8), [disc(50, 50)]).shape == (90, 120, 3)


def test_the_palette_is_stable_and_distinct():
    assert (palette(30)[:3] == palette(3)).all()
    assert len({tuple(color) for color in palette(40).tolist()}) == 40


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        ({"masks": [np.zeros((4, 4), bool)]}, "does not lie over"),
        ({"masks": [np.zeros((90, 120), bool)], "colors": [(1, 2, 3), (4, 5, 6)]}, "want colours of shape"),
        ({"points": [(1, 1), (2, 2)], "labels": [1]}, "as many labels"),
    ],
)
def test_what_does_not_fit_is_refused(photograph, arguments, complaint):
    with pytest.raises(ValueError, match=complaint):
        overlay(photograph, **arguments)
    with pytest.raises(ValueError, match="uint8"):
        overlay(photograph.astype(np.float32))
