"""Temporal spectra of motion: how fast what a unit prefers changes.

    slow = maximize(model, "fusion_relu5_3", [4], Smoothness(chi=10.0))
    temporal_spectrum(slow.flow).centroid        # less than with chi=0.0

Source: thesis 6.4 and Figs. 6.6 and 6.8, "slowest" to "unconstrained", in numbers.
"""

import dataclasses
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True, eq=False)
class Spectrum:
    """Power of some motions over temporal frequency.

    Attributes:
        frequencies: [F], in cycles per frame, 0 to 0.5. power: [U, F], of each motion,
            summing up to 1; zeros for none at all.
    """

    frequencies: np.ndarray
    power: np.ndarray

    @property
    def centroid(self):
        """[U], the mean frequency of each, in cycles per frame; NaN without motion."""
        found = self.power @ self.frequencies
        return np.where(self.power.any(axis=1), found, np.nan)

    @property
    def peak(self):
        """[U], the strongest frequency above 0 of each; NaN without change."""
        changing = self.power[:, 1:]
        found = self.frequencies[1:][changing.argmax(axis=1)]
        return np.where(changing.any(axis=1), found, np.nan)


def temporal_spectrum(flow):
    """Power of flow over temporal frequency, over all pixels and both components.

    Lasting motion is at frequency 0; a pattern of wavelength L that drifts by v pixels
    per frame is at v / L. N fields tell frequencies apart that are 1 / N from each
    other; what lies between two is spread over both and, weakly, over all.

    Args:
        flow: in pixels, [U, N, H, W, 2] as `maximization.Preferred.flow`, or one
            [N, H, W, 2]; at least 2 fields.

    Returns:
        A `Spectrum` of U motions.

    Raises:
        ValueError: another shape, too few fields, or values that are not finite.

    Source: Parseval's theorem; thesis 6.4.
    """
    flow = np.asarray(flow, "float64")
    flow = flow[None] if flow.ndim == 4 else flow
    if flow.ndim != 5 or flow.shape[-1] != 2 or flow.shape[1] < 2 or 0 in flow.shape:
        raise ValueError(
            "a spectrum is of flow [U, N, H, W, 2] of at least 2 fields, got shape "
            f"{flow.shape}."
        )
    if not np.isfinite(flow).all():
        raise ValueError("flow holds NaN or infinite values; compute it again.")
    count = flow.shape[1]
    power = (np.abs(np.fft.rfft(flow, axis=1)) ** 2).sum(axis=(2, 3, 4))
    # Each frequency stands for itself and its negative, but for the first and, of an
    # even number of fields, the last.
    power[:, 1 : (count + 1) // 2] *= 2
    totals = power.sum(axis=1, keepdims=True)
    power = np.divide(power, totals, out=np.zeros_like(power), where=totals > 0)
    # Rounding errors of a motion that does not change are no frequencies.
    power[power < 1e-20] = 0
    return Spectrum(np.fft.rfftfreq(count), power)


def table(spectra):
    """Centroids of several spectra as a Markdown table, in cycles per 100 frames.

    Args:
        spectra: {label: `Spectrum`} of the same units, such as {"chi = 10": ...}.

    Source: thesis Figs. 6.6 and 6.8.
    """
    lines = ["| | mean | lowest | highest | at rest |", "| --- |" + " ---: |" * 4]
    for label, spectrum in spectra.items():
        found = spectrum.centroid
        moving = 100 * found[~np.isnan(found)]
        numbers = (moving.mean(), moving.min(), moving.max()) if moving.size else ()
        cells = [f"{n:.2f}" for n in numbers] or ["-"] * 3
        rest = len(found) - moving.size
        lines.append(f"| {label} | {' | '.join(cells)} | {rest} |")
    return "\n".join(lines) + "\n"


def plot(spectra, path):
    """Draws the mean power of several spectra over frequency.

    Args:
        spectra: {label: `Spectrum`}. path: of a .png file; its folder is made.

    Source: thesis Figs. 6.6 and 6.8, slowest to unconstrained.
    """
    figure = Figure(figsize=(5, 3.5), layout="constrained")
    axes = figure.add_subplot()
    for label, spectrum in spectra.items():
        middle = np.nanmean(spectrum.centroid) if spectrum.power.any() else np.nan
        power = 100 * spectrum.power.mean(axis=0)
        (line,) = axes.plot(spectrum.frequencies, power, "o-", ms=3, label=label)
        if not np.isnan(middle):
            axes.axvline(middle, color=line.get_color(), ls=":", lw=1)
    axes.set_xlabel("temporal frequency (cycles per frame); dotted: centroid")
    axes.set_ylabel("power (%)")
    axes.set_yscale("log")
    axes.set_ylim(bottom=1e-2)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure).print_png(str(path))
