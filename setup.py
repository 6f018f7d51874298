"""Packaging of the Spacetime Zoo.

The code folders stand side by side at the top of the repository and install under one
name: zoo, zoo.layers, zoo.datasets, zoo.exports. Nothing else reaches site-packages;
a top-level package called `datasets` would break the one that other projects use.
"""

from pathlib import Path

from setuptools import find_packages, setup

FOLDERS = ("layers", "datasets", "exports")

# Floors, not pins: constraints.txt holds the set that the tests run with.
REQUIREMENTS = [
    "absl-py",
    "av>=14",
    "h5py",
    "keras>=3.10",
    "matplotlib>=3.8",
    "numpy>=1.26",
    "opencv-contrib-python-headless>=4.10",
    "tensorboard>=2.18",
    "tensorflow>=2.18",
]
# setuptools and wheel: a test builds the wheel without the network.
TEST = [
    "hypothesis",
    "scikit-learn>=1.4",
    "pytest>=8",
    "pytest-xdist>=3.6",
    "setuptools>=65.5",
    "wheel",
]
LINT = ["codespell>=2.3", "ruff>=0.9"]
BENCH = ["torch>=2.4"]
# The client of a server; the protobufs and gRPC stubs of TensorFlow Serving.
SERVING = ["tensorflow-serving-api>=2.18"]
# Runs and writes the files of other formats, to compare them with the model.
LITERT = ["ai-edge-litert>=2.1"]
ONNX = ["onnx>=1.17", "onnxruntime>=1.20", "tf2onnx>=1.17"]
# Data inside the package: the models' records, labels, the weights of tiny networks.
ASSETS = ["assets/*.json", "assets/labels/*.txt", "assets/weights/*/*"]
# In an environment of its own (make beam): it holds protobuf back.
BEAM = ["apache-beam>=2.77"]


def packages():
    """Returns the dotted names of all packages as they are installed."""
    found = find_packages(include=["zoo", "zoo.*"])
    for folder in FOLDERS:
        found += [f"zoo.{folder}"]
        found += [f"zoo.{folder}.{name}" for name in find_packages(folder)]
    return found


setup(
    name="spacetime-zoo",
    version="0.2.0",
    description="Spatiotemporal networks for video recognition, in Keras 3",
    long_description=Path(__file__).with_name("README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    author="The Spacetime Zoo authors",
    python_requires=">=3.11",
    packages=packages(),
    package_dir={"zoo": "zoo", **{f"zoo.{name}": name for name in FOLDERS}},
    package_data={"zoo": ["py.typed", *ASSETS]},
    install_requires=REQUIREMENTS,
    extras_require={
        "beam": BEAM,
        "bench": BENCH,
        "dev": TEST + LINT + SERVING + LITERT + ONNX,
        "lint": LINT,
        "litert": LITERT,
        "onnx": ONNX,
        "serving": SERVING,
        "test": TEST + SERVING + LITERT + ONNX,
    },
    entry_points={"console_scripts": ["zoo = zoo.__main__:main"]},
    # A disk that ignores case has room for only one of BUILD and build/.
    options={"build": {"build_base": ".build"}},
    zip_safe=False,
    classifiers=[
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Topic :: Multimedia :: Video",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
