"""Sweeps of preferred inputs: kept on disk, resumed, drawn, refused in one line."""

import numpy as np
import pytest

from tests.test_command_line import run
from tests.test_maximization import planted
from zoo.understanding import preferred_pictures, sweep
from zoo.understanding.maximization import Preferred, Search
from zoo.understanding.sweep import settings
from zoo.visualize_commands import _units

SEARCH = Search((2, 6, 8), iterations=2)


@pytest.fixture
def model():
    kernel = np.random.default_rng(0).normal(0, 0.01, (1, 4, 4, 20, 3))
    return planted("flow", kernel)


def preferred(channels, rgb=True, flow=True, dead=()):
    rng, count = np.random.default_rng(0), len(channels)
    return Preferred(
        endpoint="conv1",
        channels=channels,
        rgb=rng.integers(0, 99, (count, 2, 6, 8, 3), np.uint8) if rgb else None,
        flow=rng.normal(size=(count, 11, 6, 8, 2)) if flow else None,
        activations=np.ones(count),
        history=np.zeros((1, count)),
        dead=dead,
    )


def test_a_sweep_goes_on_where_it_was(model, tmp_path, monkeypatch):
    """What was found is read; what is missing is searched under the same maxima."""
    regularisers = settings("chi", [10, 0])
    first = sweep.sweep(model, "conv1", [0, 2], regularisers, SEARCH, tmp_path / "a")
    (tmp_path / "a" / "chi=0.npz").unlink()
    searched = []
    maximize = sweep.maximize
    monkeypatch.setattr(
        sweep, "maximize", lambda *a: searched.append(a[3]) or maximize(*a)
    )
    again = sweep.sweep(model, "conv1", [0, 2], regularisers, SEARCH, tmp_path / "a")
    assert [s.chi for s in searched] == [0]
    for label in ("chi = 10", "chi = 0"):
        assert again[label].channels == (0, 2) and again[label].rgb is None
        np.testing.assert_array_equal(again[label].flow, first[label].flow)
        np.testing.assert_array_equal(
            again[label].activations, first[label].activations
        )


def test_a_folder_belongs_to_one_sweep(model, tmp_path):
    out, chi = tmp_path / "a", settings("chi", [1])
    sweep.sweep(model, "conv1", [0], chi, SEARCH, out)
    with pytest.raises(ValueError, match=r"holds a sweep with channels = \[0\]"):
        sweep.sweep(model, "conv1", [1], chi, SEARCH, out)
    other = planted("flow", np.ones((1, 4, 4, 20, 3)))
    with pytest.raises(ValueError, match="holds a sweep with weights = "):
        sweep.sweep(other, "conv1", [0], chi, SEARCH, out)
    kept = out / "chi=1.npz"
    kept.write_bytes(kept.read_bytes()[:-30])
    with pytest.raises(ValueError, match=r"chi=1.npz is damaged .*delete it"):
        sweep.sweep(model, "conv1", [0], chi, SEARCH, out)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="other files and no sweep"):
        sweep.sweep(model, "conv1", [0], chi, SEARCH, tmp_path / "b")


def test_a_sweep_that_found_nothing_claims_nothing(model, tmp_path):
    small, chi = Search((2, 2, 2), iterations=2), settings("chi", [1])
    with pytest.raises(ValueError):
        sweep.sweep(model, "conv1", [0], chi, small, tmp_path / "a")
    with pytest.raises(ValueError, match="has units 0 to 2, got 7"):
        sweep.sweep(model, "conv1", [7], chi, SEARCH, tmp_path / "c")
    assert not (tmp_path / "c").exists()
    found = sweep.sweep(model, "conv1", [0], chi, SEARCH, tmp_path / "a")
    assert found["chi = 1"].channels == (0,)


def test_settings_of_the_thesis():
    assert list(settings("kappa", [10, 2.5])) == ["kappa = 10", "kappa = 2.5"]
    assert settings("chi", [5])["chi = 5"].kind == "2d1d"
    with pytest.raises(ValueError, match="chi is 1 twice"):
        settings("chi", [1, 1.0000001])
    with pytest.raises(ValueError, match="'tau'; accepted are chi, kappa"):
        settings("tau", [1])


# --- pictures ------------------------------------------------------------------------


def test_frames_are_stretched_over_the_whole_sequence():
    found = preferred_pictures.stretched(np.array([[[[10] * 3]], [[[30] * 3]]]))
    assert found.min() == 0 and found.max() == 255 and found.dtype == np.uint8


def test_frames_stand_beside_the_fields_around_them():
    given = preferred((4,))
    pictures = preferred_pictures.moments(given, 0)
    frames = preferred_pictures.stretched(given.rgb[0])
    assert len(pictures) == 11 and all(len(p) == 2 for p in pictures)
    for t, (frame, _) in enumerate(pictures):
        np.testing.assert_array_equal(frame, frames[0 if t < 6 else 1])
    alone = preferred((4,), flow=False)
    assert len(preferred_pictures.moments(alone, 0)) == 2


def test_sheets_have_a_row_per_unit_and_a_column_per_setting():
    found = {"chi = 10": preferred((3, 5)), "chi = 0": preferred((3,), dead=(5,))}
    page = preferred_pictures.sheet(found)
    side, gap, margin = (
        getattr(preferred_pictures, n) for n in ("SIDE", "GAP", "MARGIN")
    )
    width = 2 * margin + 2 * 4 * (side + gap)  # a frame and three fields
    assert page.shape == (margin + 2 * (side + gap), width, 3)
    blank = page[-side:, -4 * side - 3 * gap :]  # the dead unit's
    assert (blank == 255).all()
    pages = list(preferred_pictures.movie(found))
    assert len(pages) == 11 and len({p.shape for p in pages}) == 1
    assert any((pages[0] != p).any() for p in pages[1:])


# --- the command ---------------------------------------------------------------------


def test_the_command_from_its_flags_to_its_files(tmp_path, capsys):
    out = tmp_path / "seen"
    argv = ["visualize", "motion_vgg_tiny", "--endpoint", "relu2", "--units", "0,3"]
    argv += [
        "--clip",
        "1x16x20",
        "--iterations",
        "2",
        "--chi",
        "5,0",
        "--out",
        str(out),
    ]
    code, printed, error = run(capsys, *argv)
    assert code == 0 and "motion_vgg_tiny without --weights is untrained" in error
    assert "chi = 5: activations " in printed and "| chi = 0 |" in printed
    names = {"sheet.png", "sheet.mp4", "spectrum.png", "chi=5.npz", "chi=0.npz"}
    assert names <= {p.name for p in out.iterdir()}
    before = {p: p.stat().st_mtime_ns for p in out.glob("*.npz")}
    assert run(capsys, *argv)[0] == 0
    assert before == {p: p.stat().st_mtime_ns for p in out.glob("*.npz")}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("vgg_tiny",), "needs --endpoint and --out"),
        (("nowhere", "--endpoint=x", "--out=x"), "neither a folder nor a registered"),
        (("rfcn_tiny", "--endpoint=x", "--out=x"), "is a detector"),
        (("vgg_tiny", "--endpoint=relu99", "--out=x"), "has no endpoint 'relu99'"),
        (("vgg_tiny", "--endpoint=relu5", "--out=x", "--chi=1"), "sees no flow"),
        (
            ("motion_vgg_tiny", "--endpoint=relu5", "--out=x", "--chi=1", "--kappa=1"),
            "give one of them",
        ),
        (
            ("motion_vgg_tiny", "--endpoint=relu5", "--out=x", "--chi=fast"),
            "--chi takes numbers",
        ),
        (("vgg_tiny", "--endpoint=relu5", "--out=x", "--units=5-3"), "--units takes"),
        (("vgg_tiny", "--endpoint=relu5", "--out=x", "--clip=5"), "--clip takes"),
        (("vgg_tiny", "--endpoint=relu5", "--out=x", "--encoding=no"), "one of wheel"),
    ],
)
def test_bad_commands(argv, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, error = run(capsys, "visualize", *argv)
    assert code == 2 and message in error and not list(tmp_path.iterdir())


def test_units_are_ranges_and_lists():
    assert _units("0-3") == [0, 1, 2, 3] and _units("3,5-6") == [3, 5, 6]
    with pytest.raises(ValueError, match="names a unit twice"):
        _units("1,0-2")
