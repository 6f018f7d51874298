"""Motion of the camera taken out of optical flow, while flow is extracted.

Two frames are aligned by the homography of their background before flow is computed,
so what the flow shows moves by itself. It costs the flow of a second pair of frames;
`zoo.layers.RemoveCameraMotion` takes the same motion out of flow that is there already.

Source: Wang and Schmid 2013, "Action recognition with improved trajectories", section
3.1, and their released code for the numbers. SIFT (Lowe 2004) stands in for SURF, which
builds of OpenCV leave out for its patent's sake.
"""

import dataclasses
import itertools
from collections.abc import Callable

import cv2
import numpy as np

from zoo.datasets.video import VideoError

CORNERS = 1000
"""Most corners at which the flow is asked (released code of Wang and Schmid 2013)."""
TILES = 4
"""Corners are sought in 4 x 4 tiles, or one thing of high contrast would have them all;
ours, the release seeks them in the whole frame."""
QUALITY, APART = 0.001, 3
"""Least strength of a corner, relative to the tile's strongest, and distance in pixels
from the next (released code, where it's relative to the frame's)."""
KEYPOINTS = 1000
"""Most SIFT keypoints of a frame."""
RATIO = 0.8
"""A match is this much nearer than the second nearest (Lowe 2004, section 7.1)."""
TOLERANCE = 1.0
"""Distance in pixels within which a match supports a homography (released code)."""
CLOSE = 0.5
"""Distance within which matches count in the end: at the edges of what moves, flow lies
between its motion and the background's, and biases the fit. What moves less is at rest;
ours."""
LEAST_MATCHES, LEAST_SUPPORT = 50, 25
"""A homography rests on more matches than this, and more that support it (released
code)."""
LEAST_SHARE = 0.25
"""Share of the matches that supports it at least; ours, the release asks for none."""


def without_camera_motion(first, second, between):
    """Flow between two frames, the camera's motion taken out.

    Corners moved by the plain flow and matched SIFT keypoints give a homography
    (RANSAC); the second frame is warped back by it, and the flow computed again. What
    the warped frame doesn't show is filled from the first frame, where nothing moves.

    Args:
        first, second: RGB frames, uint8 [H, W, 3].
        between: function of two such frames to their flow in pixels, [H, W, 2].

    Returns:
        (flow, found): float32 [H, W, 2] in pixels, u to the right, v down, where the
        things of the first frame would be had the camera not moved. And whether a
        homography was found that leaves no less of the field at rest; if not, the
        flow is the plain one.

    Raises:
        VideoError: If the frames aren't uint8 RGB or differ in size, or if `between`
            returns something else than a finite field of their size.
    """
    _check_frames(first, second)
    plain = _field(between, first, second)
    homography = camera_homography(first, second, plain)
    if homography is None:
        return plain, False
    flow = _field(between, first, aligned(first, second, homography))
    # In dark or flat frames the rounding of the warp alone makes flow of a pixel or
    # two; where the camera rests, that would be worse than leaving the frames alone.
    if _share_at_rest(flow) < _share_at_rest(plain):
        return plain, False
    return flow, True


def camera_homography(first, second, flow):
    """The homography of the background between two frames, or None.

    Args:
        first, second: RGB frames, uint8 [H, W, 3].
        flow: Field between them in pixels, [H, W, 2].

    Returns:
        float64 [3, 3], which takes (column, row, 1) of the first frame to the second;
        None with too few matches or none that agree.
    """
    pair = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (first, second)]
    matches = [_corner_matches(pair[0], flow), _keypoint_matches(*pair)]
    here, there = (np.concatenate(points) for points in zip(*matches, strict=True))
    if len(here) <= LEAST_MATCHES:
        return None
    found, support = cv2.findHomography(here, there, cv2.RANSAC, TOLERANCE)
    if found is None or support.sum() <= max(LEAST_SUPPORT, LEAST_SHARE * len(here)):
        return None
    found = _refined(found, here, there)
    return found if _is_camera(found, first.shape) else None


def aligned(first, second, homography):
    """The second frame as the camera of the first would have seen it.

    Args:
        first, second: RGB frames, uint8 [H, W, 3].
        homography: From the first to the second, [3, 3].

    Returns:
        uint8 [H, W, 3]; pixels beyond the border of the second are the first's.
    """
    return cv2.warpPerspective(
        second,
        homography,
        first.shape[1::-1],
        dst=first.copy(),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_TRANSPARENT,
    )


@dataclasses.dataclass
class CameraMotionRemoval:
    """`without_camera_motion` in place of a function between frames, with a count.

        between = CameraMotionRemoval(between)
        field = between(first, second)
        print(between.report())

    The count isn't guarded: every thread takes one of its own.

    Attributes:
        between: The function to which it's applied.
        pairs: Pairs of frames so far.
        plain: Those of them whose flow is the plain one: no homography was found, or
            none that leaves more at rest, as with a camera that rests.
    """

    between: Callable
    pairs: int = 0
    plain: int = 0

    def __call__(self, first, second):
        """Flow between two frames, float32 [H, W, 2]; see without_camera_motion."""
        flow, found = without_camera_motion(first, second, self.between)
        self.pairs += 1
        self.plain += not found
        return flow

    def report(self):
        """One line that says how many fields are as they were."""
        return (
            f"camera motion removed from {self.pairs - self.plain} of {self.pairs} "
            f"fields; {self.plain} are plain flow: the camera rests, or no homography "
            "was found"
        )


def _check_frames(first, second):
    for name, frame in (("first", first), ("second", second)):
        shape, kind = np.shape(frame), getattr(frame, "dtype", type(frame).__name__)
        if len(shape) != 3 or shape[2] != 3 or 0 in shape or kind != np.uint8:
            raise VideoError(
                f"the {name} frame must be RGB, uint8 [H, W, 3]; got {kind} "
                f"{shape}. Repeat the channel of grey frames three times."
            )
    if first.shape != second.shape:
        raise VideoError(
            f"both frames must have one size; got {first.shape[:2]} and "
            f"{second.shape[:2]}. Resize the second."
        )


def _field(between, first, second):
    flow = np.asarray(between(first, second), np.float32)
    if flow.shape != (*first.shape[:2], 2) or not np.isfinite(flow).all():
        raise VideoError(
            f"flow between frames of {first.shape[1]}x{first.shape[0]} must be finite "
            f"and {(*first.shape[:2], 2)}; {between!r} returned {flow.shape}"
            f"{'' if np.isfinite(flow).all() else ' with NaN or infinite values'}."
        )
    return flow


def _share_at_rest(flow):
    return np.mean(np.hypot(flow[..., 0], flow[..., 1]) < CLOSE)


def _corner_matches(grey, flow):
    """Strong corners and where the flow moves them, [N, 2] each."""
    rows, columns = (np.linspace(0, n, TILES + 1).astype(int) for n in grey.shape)
    found = []
    for top, bottom in itertools.pairwise(rows):
        for left, right in itertools.pairwise(columns):
            corners = _corners(grey[top:bottom, left:right])
            found.append(corners + np.float32([left, top]))
    corners = np.concatenate(found)
    column, row = np.rint(corners).astype(int).T
    return corners, corners + flow[row, column]


def _corners(tile):
    """Strong corners of a part of a frame, float32 [N, 2], columns before rows."""
    if not tile.size:
        return np.zeros((0, 2), np.float32)
    corners = cv2.goodFeaturesToTrack(tile, CORNERS // TILES**2, QUALITY, APART)
    return np.zeros((0, 2), np.float32) if corners is None else corners.reshape(-1, 2)


def _keypoint_matches(first, second):
    """SIFT keypoints that are each other's nearest, [N, 2] each."""
    sift = cv2.SIFT_create(KEYPOINTS)
    found = [sift.detectAndCompute(grey, None) for grey in (first, second)]
    (here, descriptors), (there, others) = found
    if min(len(here), len(there)) < 2:
        return np.zeros((2, 0, 2), np.float32)
    matcher = cv2.BFMatcher(cv2.NORM_L2)
    back = {
        m.queryIdx: m.trainIdx for m, *_ in matcher.knnMatch(others, descriptors, 1)
    }
    pairs = [
        (best.queryIdx, best.trainIdx)
        for best, second_best in matcher.knnMatch(descriptors, others, 2)
        if best.distance < RATIO * second_best.distance
        and back[best.trainIdx] == best.queryIdx
    ]
    points = [[here[i].pt for i, _ in pairs], [there[j].pt for _, j in pairs]]
    return np.array(points, np.float32).reshape(2, -1, 2)


def _refined(homography, here, there):
    """The homography of those matches alone that are close to it."""
    for _ in range(3):
        moved = cv2.perspectiveTransform(here[:, None], homography)[:, 0]
        close = np.hypot(*(moved - there).T) < CLOSE
        if close.sum() <= LEAST_SUPPORT:
            return homography
        better, _ = cv2.findHomography(here[close], there[close], 0)
        if better is None:  # they lie on a line
            return homography
        homography = better
    return homography


def _is_camera(homography, shape):
    """Whether the frame keeps its orientation and no part of it passes infinity."""
    height, width = shape[:2]
    x, y = np.array([[0, width - 1, width - 1, 0], [0, 0, height - 1, height - 1]])
    moved = homography @ np.stack([x, y, np.ones(4)])
    if moved[2].min() <= 0:
        return False
    corners = (moved[:2] / moved[2]).astype(np.float32).T
    return cv2.isContourConvex(corners) and cv2.contourArea(corners, True) > 0
