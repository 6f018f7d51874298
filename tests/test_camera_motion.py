"""Flow of frames without the camera's motion: textures seen through homographies."""

import cv2
import numpy as np
import pytest

from tests.moving_cameras import flow_of, homography, patch_of, seen_through, texture
from zoo.datasets import VideoError
from zoo.datasets.camera_motion import (
    CameraMotionRemoval,
    aligned,
    camera_homography,
    without_camera_motion,
)

SIZES = [(180, 241), (241, 180), (240, 320)]


def dis(first, second):
    pair = [cv2.cvtColor(f, cv2.COLOR_RGB2GRAY) for f in (first, second)]
    preset = cv2.DISOPTICAL_FLOW_PRESET_MEDIUM
    return cv2.DISOpticalFlow_create(preset).calc(*pair, None)


def filmed(size, share, seed):
    """(first, second, homography, mask, own motion): a patch moves, and the camera.

    The patch moves over the background as seen by the first camera; the second frame
    is all of that seen through the homography.
    """
    rng = np.random.default_rng(seed)
    background, front = texture(rng, size), texture(rng, size)
    # The part of the frame that the patch comes from, far enough from the border.
    mask = patch_of(rng, size, share)
    own = np.rint(rng.choice([-1, 1], 2) * rng.uniform(3, 6, 2)).astype(int)
    first, second = background.copy(), background.copy()
    first[mask] = front[mask]
    shift = np.float32([[1, 0, own[0]], [0, 1, own[1]]])
    moved = cv2.warpAffine(mask.astype(np.uint8), shift, size[::-1]) > 0
    second[moved] = cv2.warpAffine(front, shift, size[::-1])[moved]
    matrix = homography(rng, size, shift=3.0)
    return first, seen_through(second, matrix), matrix, mask, own


def inside(mask, own, margin=12):
    """Parts of the patch and of the background that no border of either is near."""
    kernel = np.ones((2 * margin + 1,) * 2, np.uint8)
    grown = cv2.dilate(mask.astype(np.uint8), kernel) > 0
    shrunk = cv2.erode(mask.astype(np.uint8), kernel, borderValue=0) > 0
    frame = np.zeros_like(mask)
    frame[margin:-margin, margin:-margin] = True
    return shrunk & frame, ~grown & frame


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("share", [0.0, 0.2, 0.4])
def test_what_moves_by_itself_remains(size, share):
    """Residual of the background below 0.1 pixels, own motion kept within 0.3."""
    for seed in range(3):
        first, second, matrix, mask, own = filmed(size, share, seed)
        flow, found = without_camera_motion(first, second, dis)
        assert found and flow.dtype == np.float32 and flow.shape == (*size, 2)
        patch, background = inside(mask, own)
        length = np.hypot(*np.moveaxis(flow, -1, 0))
        assert np.median(length[background]) < 0.1
        plain = np.hypot(*np.moveaxis(dis(first, second), -1, 0))
        assert np.median(plain[background]) > 1
        if patch.any():
            error = np.hypot(*np.moveaxis(flow - own, -1, 0))
            assert np.median(error[patch]) < 0.3


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_homography_is_the_cameras(size):
    """Displacements at all pixels, from a flow that is wrong in a fifth of them."""
    for seed in range(3):
        first, second, matrix, *_ = filmed(size, 0.2, seed)
        found = camera_homography(first, second, dis(first, second))
        error = flow_of(found, size) - flow_of(matrix, size)
        assert np.hypot(*np.moveaxis(error, -1, 0)).max() < 0.5


def test_aligned_frame_is_the_first_where_both_see():
    rng = np.random.default_rng(0)
    size = 96, 128
    first = texture(rng, size)
    matrix = np.array([[1, 0, 7.0], [0, 1, -5.0], [0, 0, 1]])
    second = seen_through(first, matrix)
    second[-5:] = 0  # what came into view: black, as nowhere in the first frame
    second[:, :7] = 0
    back = aligned(first, second, matrix)
    np.testing.assert_array_equal(back[5:, :-7], first[5:, :-7])
    np.testing.assert_array_equal(back[:5], first[:5])
    np.testing.assert_array_equal(back[:, -7:], first[:, -7:])


def test_a_camera_at_rest_changes_next_to_nothing():
    first = texture(np.random.default_rng(5), (128, 171))
    flow, found = without_camera_motion(first, first, dis)
    assert found and np.abs(flow).max() < 0.05


def test_flow_that_alignment_makes_worse_is_not_taken():
    """A resting camera, and flow that is wrong as soon as a frame is warped."""
    first = texture(np.random.default_rng(5), (128, 171))
    noise = np.random.default_rng(6).integers(-3, 4, first.shape)
    second = np.clip(first + noise, 0, 255).astype(np.uint8)

    def between(one, other):
        if other is second:
            return dis(one, other)
        return np.full((128, 171, 2), 2, np.float32)

    flow, found = without_camera_motion(first, second, between)
    assert not found
    np.testing.assert_array_equal(flow, dis(first, second))


# --- without a homography ------------------------------------------------------------


def test_plain_flow_is_returned_and_counted():
    grey = np.full((64, 85, 3), 128, np.uint8)
    moving = filmed((128, 171), 0.0, 1)[:2]
    remove = CameraMotionRemoval(dis)
    np.testing.assert_array_equal(remove(grey, grey), dis(grey, grey))
    assert (remove.pairs, remove.plain) == (1, 1)
    assert not without_camera_motion(grey, grey, dis)[1]
    assert np.median(np.abs(remove(*moving))) < 0.1
    assert (remove.pairs, remove.plain) == (2, 1)
    assert remove.report() == (
        "camera motion removed from 1 of 2 fields; 1 are plain flow: the camera rests, "
        "or no homography was found"
    )


def test_motion_of_no_camera_stays():
    """Unlike frames and a flow that agrees with nothing."""
    rng = np.random.default_rng(0)
    first, second = texture(rng, (96, 128)), texture(rng, (96, 128))
    wild = rng.uniform(-20, 20, (96, 128, 2)).astype(np.float32)
    flow, found = without_camera_motion(first, second, lambda *pair: wild)
    assert not found
    np.testing.assert_array_equal(flow, wild)


def test_a_mirror_is_no_camera():
    """Matches that agree on a reflection, as of a picture that is turned over."""
    first = texture(np.random.default_rng(0), (96, 128))
    second = np.ascontiguousarray(first[:, ::-1])
    x = np.arange(128, dtype=np.float32)
    flow = np.zeros((96, 128, 2), np.float32)
    flow[..., 0] = 127 - 2 * x
    assert camera_homography(first, second, flow) is None


# --- errors --------------------------------------------------------------------------

FRAME = np.zeros((32, 40, 3), np.uint8)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (FRAME[..., 0], FRAME, r"first frame must be RGB, uint8 .* got uint8 \(32, 40"),
        (FRAME, FRAME.astype(float), "second frame must be RGB, .* got float64"),
        (FRAME, FRAME[:-1], r"one size; got \(32, 40\) and \(31, 40\)"),
        ("a.png", FRAME, "first frame must be RGB, .* got str"),
    ],
)
def test_frames_that_are_none(first, second, message):
    with pytest.raises(VideoError, match=message):
        without_camera_motion(first, second, dis)


@pytest.mark.parametrize(
    ("flow", "message"),
    [
        (np.zeros((32, 40)), r"must be finite and \(32, 40, 2\); .* \(32, 40\)"),
        (np.full((32, 40, 2), np.nan), "with NaN or infinite values"),
    ],
)
def test_flow_that_is_none(flow, message):
    with pytest.raises(VideoError, match=message):
        without_camera_motion(FRAME, FRAME, lambda first, second: flow)
