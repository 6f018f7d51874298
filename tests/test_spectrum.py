"""Temporal spectra: drifting templates of known speed, rest, and what is refused."""

import cv2
import numpy as np
import pytest

from zoo.understanding.spectrum import plot, table, temporal_spectrum


def drifting(speed, wavelength=16, fields=16, size=32):
    """A wave of flow that drifts to the right, [N, H, W, 2]."""
    x = np.arange(size) - speed * np.arange(fields)[:, None]
    wave = 3 * np.sin(2 * np.pi * x / wavelength)
    wave = np.broadcast_to(wave[:, None], (fields, size, size))
    return np.stack([wave, -wave / 2], axis=-1)


@pytest.mark.parametrize("speed", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("fields", [16, 32])
def test_a_drifting_template_has_the_frequency_of_its_speed(speed, fields):
    spectrum = temporal_spectrum(drifting(speed, fields=fields))
    assert spectrum.centroid == pytest.approx([speed / 16])
    assert spectrum.peak == pytest.approx([speed / 16])
    assert spectrum.power.sum() == pytest.approx(1)


def test_between_two_frequencies_and_of_an_odd_number():
    spectrum = temporal_spectrum(drifting(2, fields=19))
    assert spectrum.peak == pytest.approx([2 / 16], abs=0.5 / 19)
    assert spectrum.centroid == pytest.approx([2 / 16], abs=1 / 19)


def test_power_is_that_of_the_fields():
    """Shares by Parseval: of a mean, of noise, one after the other and together."""
    noise = np.random.default_rng(0).normal(0, 1, (2, 9, 4, 4, 2))
    noise -= noise.mean(axis=1, keepdims=True)
    spectrum = temporal_spectrum(2.0 + noise)
    changing = (noise**2).sum(axis=(1, 2, 3, 4))
    share = changing / (changing + 4 * 9 * 4 * 4 * 2)
    np.testing.assert_allclose(spectrum.power[:, 1:].sum(axis=1), share, rtol=1e-9)


def test_faster_is_higher_and_rest_is_nothing():
    flows = np.stack([drifting(v) for v in (0, 1, 4)] + [np.zeros((16, 32, 32, 2))])
    spectrum = temporal_spectrum(flows)
    assert spectrum.centroid[0] == 0 < spectrum.centroid[1] < spectrum.centroid[2]
    assert np.isnan(spectrum.centroid[3]) and np.isnan(spectrum.peak[[0, 3]]).all()


def test_table_and_picture(tmp_path):
    spectra = {
        "chi = 10": temporal_spectrum(np.stack([drifting(1), drifting(0) * 0])),
        "chi = 0": temporal_spectrum(np.stack([drifting(2), drifting(6)])),
    }
    lines = table(spectra).splitlines()
    assert lines[2] == "| chi = 10 | 6.25 | 6.25 | 6.25 | 1 |"
    assert lines[3] == "| chi = 0 | 25.00 | 12.50 | 37.50 | 0 |"
    plot(spectra, tmp_path / "new" / "spectra.png")
    picture = cv2.imread(str(tmp_path / "new" / "spectra.png"))
    assert picture is not None and picture.std() > 10


@pytest.mark.parametrize(
    ("flow", "message"),
    [
        (np.zeros((1, 4, 4, 2)), "at least 2 fields, got shape"),
        (np.zeros((3, 4, 4, 3)), r"\[U, N, H, W, 2\]"),
        (np.zeros((3, 4, 2)), "got shape"),
        (np.full((3, 4, 4, 2), np.nan), "NaN or infinite"),
    ],
)
def test_bad_flow(flow, message):
    with pytest.raises(ValueError, match=message):
        temporal_spectrum(flow)
