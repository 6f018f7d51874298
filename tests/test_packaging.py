"""The wheel and the editable installation: what they hold, and that they import.

Both are made from a copy of the sources, without network and build isolation, and
imported by a fresh interpreter that sees the dependencies but not this checkout.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

import zoo

ROOT = Path(os.path.abspath(__file__)).parent.parent
FOLDERS = ("layers", "datasets", "exports")
INFO = f"spacetime_zoo-{zoo.__version__}.dist-info"
# -S leaves out site-packages' .pth files, which would lead back to this checkout; it is
# put on the path by hand, behind the installation under test.
IMPORT_ALL = """
import importlib, site, sys
target, root, *dependencies = sys.argv[1:]
sys.path.extend(dependencies)
sys.path.insert(0, target)
site.addsitedir(target)
for name in ["zoo", "zoo.layers", "zoo.datasets", "zoo.exports"]:
    path = importlib.import_module(name).__file__
    assert path.startswith(root), f"{name} came from {path}, not from {root}"
for name in ["layers", "datasets", "exports"]:
    assert importlib.util.find_spec(name) is None, f"{name} is importable by itself"
import zoo.__main__, zoo.layers.temporal_conv
print("names:", " ".join(zoo.list_models()))
"""


def run(*command, cwd):
    """Runs a command and returns what it printed; fails with all of its output."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", "PIP_NO_INDEX": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def import_all(target, root, cwd):
    """Imports every package in a fresh interpreter; returns what that printed."""
    paths = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
    return run(sys.executable, "-S", "-c", IMPORT_ALL, target, root, *paths, cwd=cwd)


def pip(*arguments, cwd):
    """Runs pip without index, build isolation and dependencies."""
    quiet = ("--quiet", "--disable-pip-version-check")
    offline = ("--no-index", "--no-deps", "--no-build-isolation")
    command, *rest = arguments
    run(sys.executable, "-m", "pip", command, *quiet, *offline, *rest, cwd=cwd)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """A copy of what the wheel is made from, so that nothing is left in the tree."""
    copy = tmp_path_factory.mktemp("sources")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(ROOT / name, copy)
    for name in ("zoo", "tests", *FOLDERS):
        # Bazel lays the folders below zoo/ as well.
        skip = ("__pycache__", *(FOLDERS if name == "zoo" else ()))
        ignore = shutil.ignore_patterns(*skip)
        shutil.copytree(ROOT / name, copy / name, ignore=ignore)
    return copy


@pytest.fixture(scope="module")
def wheel(sources, tmp_path_factory):
    """The path of a freshly built wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--wheel-dir", folder, sources, cwd=folder)
    (path,) = folder.glob("*.whl")
    return path


def test_the_wheel_holds_the_four_folders_and_nothing_else(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    tops = {name.split("/")[0] for name in names}
    assert tops == {"zoo", INFO}
    expected = {"zoo/py.typed"}
    for folder in ("zoo", *FOLDERS):
        prefix = "" if folder == "zoo" else "zoo/"
        for path in (ROOT / folder).rglob("*.py"):
            expected.add(prefix + path.relative_to(ROOT).as_posix())
    for path in (ROOT / "zoo" / "assets").rglob("*"):
        if path.is_file():
            expected.add(path.relative_to(ROOT).as_posix())
    assert {name for name in names if name.startswith("zoo/")} >= expected
    assert "zoo/assets/weights/t_resnet_tiny.synthetic_scenes/weights.json" in names
    extra = {n for n in names if n.endswith(".py")} - expected
    assert not extra, f"the wheel holds {sorted(extra)}"


def test_the_wheel_declares_what_it_needs(wheel):
    archive = zipfile.ZipFile(wheel)
    metadata = archive.read(f"{INFO}/METADATA").decode()
    assert "Requires-Python: >=3.11" in metadata
    assert "Requires-Dist: tensorflow>=" in metadata
    assert "Requires-Dist: pytest>=8; extra == " in metadata
    commands = archive.read(f"{INFO}/entry_points.txt").decode()
    assert "zoo = zoo.__main__:main" in commands
    assert any(name.endswith("LICENSE") for name in archive.namelist())


@pytest.mark.slow
def test_the_installed_wheel_imports(wheel, tmp_path):
    target = tmp_path / "site"
    pip("install", "--target", target, wheel, cwd=tmp_path)
    inside = {path.name for path in target.iterdir()} - {"bin"}
    assert inside == {"zoo", INFO}
    printed = import_all(target, root=target, cwd=tmp_path)
    assert "t_resnet50" in printed


@pytest.mark.slow
def test_the_editable_installation_imports(sources, tmp_path):
    build = "from setuptools import build_meta as b; b.build_editable({!r})"
    run(sys.executable, "-c", build.format(str(tmp_path)), cwd=sources)
    (link,) = tmp_path.glob("*.whl")
    target = tmp_path / "site"
    pip("install", "--target", target, link, cwd=tmp_path)
    assert not (target / "zoo").exists()
    # A module made after the installation is found, too.
    (sources / "layers" / "newcomer.py").write_text('"""New."""\nSIZE = 3\n')
    init = sources / "layers" / "__init__.py"
    use = "\nfrom zoo.layers.newcomer import SIZE\n\nprint('size', SIZE)\n"
    init.write_text(init.read_text("utf-8") + use, "utf-8")
    printed = import_all(target, root=sources, cwd=tmp_path)
    assert "size 3" in printed
    assert "t_resnet50" in printed
