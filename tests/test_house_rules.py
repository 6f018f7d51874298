"""House rules as tests: who may import whom, docstrings, sizes, honest text.

Each rule is a function from one source to a list of complaints. It is run over the
whole repository, and over samples that break it, so a rule that sees nothing fails.
"""

import ast
import os
import re
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

# abspath and not resolve: under Bazel this file is a link out of the test's own tree.
ROOT = Path(os.path.abspath(__file__)).parent.parent
FOLDERS = ("layers", "datasets", "exports")
CODE = ("zoo", *FOLDERS)
MAX_LINES = 600
MAX_KEYWORDS = 8

# room: (rooms it may import, packages from outside it may import)
_EVERYTHING = {
    *{"front", "registry", "layers", "models", "weights", "datasets", "exports"},
    *{"training", "evaluation", "understanding", "demo", "files", "flow_methods"},
}
_PLOTS = {"absl", "cv2", "keras", "matplotlib", "numpy", "tensorflow"}
IMPORTS = {
    "files": (set(), set()),
    "layers": (set(), {"keras"}),
    "registry": (set(), set()),
    "models": ({"layers", "registry"}, {"keras", "numpy"}),
    "datasets": (
        {"files"},
        {"absl", "apache_beam", "av", "cv2", "numpy"}
        | {"tensorflow", "tensorflow_datasets"},
    ),
    "weights": (
        {"models", "registry", "files"},
        {"absl", "h5py", "keras", "numpy", "scipy"},
    ),
    "training": (
        {"registry", "models", "datasets", "weights", "evaluation", "files"},
        {"absl", "keras", "numpy", "tensorflow"},
    ),
    "evaluation": ({"models", "datasets", "files"}, _PLOTS),
    "understanding": ({"models", "datasets", "layers", "files"}, _PLOTS),
    "exports": (
        {"models", "layers", "files"},
        {
            "absl",
            "ai_edge_litert",
            "google",
            "grpc",
            "keras",
            "numpy",
            "onnx",
            "onnxruntime",
            "tensorflow",
            "tensorflow_serving",
            "tf2onnx",
        },
    ),
    "flow_methods": ({"datasets", "layers"}, {"keras", "numpy"}),
    "front": ({"registry", "models", "weights"}, set()),
    "demo": (_EVERYTHING, _PLOTS),
    "main": (_EVERYTHING, _PLOTS),
}
ROOM_OF_FILE = {
    **{"__init__": "front", "__main__": "main", "model_info": "registry"},
    **{"model_index": "registry", "lazy": "files"},
    **dict.fromkeys(("command_line", "detection_commands", "prediction"), "main"),
    "remote_prediction": "main",
    **dict.fromkeys(("serving_commands", "weights_commands"), "main"),
    **dict.fromkeys(("explain_commands", "visualize_commands"), "main"),
    **{"export_command": "main"},
}
DISTRIBUTIONS = {
    "apache_beam": "apache-beam",
    "absl": "absl-py",
    "ai_edge_litert": "ai-edge-litert",
    "cv2": "opencv-contrib-python-headless",
    "google": "protobuf",
    "grpc": "tensorflow-serving-api",  # brings it
    "tensorflow_serving": "tensorflow-serving-api",
    "sklearn": "scikit-learn",
}
# Needed by keras.callbacks.TensorBoard, which imports it by itself.
INDIRECT = {"tensorboard"}
# Of an extra: a module that only its users import.
OPTIONAL = {
    *{"apache-beam", "tensorflow-serving-api"},
    *{"ai-edge-litert", "onnx", "onnxruntime", "tf2onnx"},
}


@dataclass(frozen=True)
class Source:
    """A Python file: its path relative to the root, and its text."""

    path: str
    text: str

    @cached_property
    def tree(self):
        """The parsed text."""
        return ast.parse(self.text)

    @property
    def top(self):
        """The first folder of the path."""
        return self.path.split("/")[0]

    @property
    def room(self):
        """The room of the import table, None for tests and scripts."""
        if self.top in FOLDERS:
            return self.top
        if self.top != "zoo":
            return None
        name = self.path.removeprefix("zoo/").split("/")[0].removesuffix(".py")
        return ROOM_OF_FILE.get(name, name)

    def at(self, node, complaint):
        """The complaint with file and line before it."""
        return f"{self.path}:{node.lineno}: {complaint}"


def read_sources():
    """All Python files of the repository, in a fixed order."""
    paths = [ROOT / "setup.py"]
    for folder in (*CODE, "tests", "benchmarks", "bazel"):
        paths += sorted((ROOT / folder).rglob("*.py"))
    return [Source(p.relative_to(ROOT).as_posix(), p.read_text("utf-8")) for p in paths]


# --- who may know whom ---------------------------------------------------------------


def imported(source):
    """(node, dotted name) of every import; `from zoo import x` gives zoo.x."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            for alias in node.names:
                yield node, f"{node.module}.{alias.name}"


def room_of(name):
    """The room a dotted name belongs to, None outside of zoo."""
    parts = name.split(".")
    if parts[0] != "zoo":
        return None
    name = parts[1] if len(parts) > 1 else "__init__"
    room = ROOM_OF_FILE.get(name, name)
    return room if room in IMPORTS else "front"


def import_table(source):
    """Rooms import only what the table allows them."""
    if source.room is None:
        return []
    if source.room not in IMPORTS:
        return [f"{source.path}:1: no room of the import table"]
    rooms, packages = IMPORTS[source.room]
    found = []
    for node, name in imported(source):
        room, package = room_of(name), name.split(".")[0]
        if room is not None and room not in rooms | {source.room}:
            found.append(source.at(node, f"{source.room} must not import {name}"))
        elif room is None and package not in packages | sys.stdlib_module_names:
            found.append(source.at(node, f"{source.room} must not import {package}"))
    return found


def one_name_per_module(source):
    """Modules go by zoo.layers..., never by layers... or a relative name."""
    found = [
        source.at(node, f"import {name} as zoo.{name}")
        for node, name in imported(source)
        if name.split(".")[0] in FOLDERS
    ]
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            found.append(source.at(node, "relative import; write zoo...."))
    return found


def no_private_imports(source):
    """Nothing of TensorFlow's or Keras' private modules."""
    private = ("tensorflow.python", "keras.src")
    return [
        source.at(node, f"{name} is private")
        for node, name in imported(source)
        if f"{name}.".startswith(tuple(f"{p}." for p in private))
    ]


def nobody_imports_main(source):
    """The command line is the end of the chain."""
    if source.top == "tests":
        return []
    return [
        source.at(node, "nobody imports zoo.__main__")
        for node, name in imported(source)
        if name.startswith("zoo.__main__")
    ]


# --- docstrings and signatures -------------------------------------------------------

_PLACE = r"thesis|chapters?|sections?|sec\.|eqs?\.|equations?|tables?|figures?|fig\."
CITATION = re.compile(
    rf"(?i:(?:{_PLACE})\s*\(?[A-F]?\.?\d)"
    r"|(?i:arxiv[:/ ]\s*(?:abs/)?\d{4}\.\d{4,5})"
    r"|[A-Z][\w-]+(?: et al\.?| and [A-Z][\w-]+)?,? \(?(?:19|20)\d\d\b"
)


def public(body):
    """The public functions and classes among the statements."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return [n for n in body if isinstance(n, kinds) and not n.name.startswith("_")]


def docstrings(source):
    """Every module and everything public in it has a docstring."""
    if source.top not in CODE:
        return []
    found = [] if ast.get_docstring(source.tree) else [f"{source.path}:1: no docstring"]
    for node in public(source.tree.body):
        if not ast.get_docstring(node):
            found.append(source.at(node, f"{node.name} has no docstring"))
    return found


def citations(source):
    """Docstrings of layers and models name the source of what they describe."""
    name = source.path.split("/")[-1]
    if source.room not in ("layers", "models") or re.match(r"_[a-z]", name):
        return []
    found = []
    if name != "__init__.py" and not CITATION.search(
        ast.get_docstring(source.tree) or ""
    ):
        found.append(f"{source.path}:1: the docstring names no source")
    for node in public(source.tree.body):
        if not CITATION.search(ast.get_docstring(node) or ""):
            found.append(source.at(node, f"{node.name}: docstring names no source"))
    return found


def few_keywords(source):
    """At most eight keyword arguments on a public callable."""
    if source.top not in CODE:
        return []
    found = []
    for node in public(source.tree.body):
        functions = [node]
        if isinstance(node, ast.ClassDef):
            body = [n for n in node.body if isinstance(n, ast.FunctionDef)]
            functions = [n for n in body if n.name == "__init__" or n in public(body)]
        for function in functions:
            count = len(function.args.defaults) + len(function.args.kwonlyargs)
            if count > MAX_KEYWORDS:
                text = f"{node.name}: {count} keyword arguments, at most {MAX_KEYWORDS}"
                found.append(source.at(function, text))
    return found


# --- size and honesty ----------------------------------------------------------------


def file_length(source):
    """No file is longer than a reader's patience."""
    lines = source.text.count("\n")
    if lines <= MAX_LINES:
        return []
    return [f"{source.path}:{MAX_LINES}: {lines} lines, at most {MAX_LINES}"]


# Taken apart so that this file may be searched, too.
UNFINISHED = re.compile(
    r"\b(?:TO" + "DO|FIX" + "ME|XX" + "X)\\b|NotImplemented" + "Error"
)


def finished(source):
    """Nothing left undone: no stubs, no notes to self."""
    return [
        f"{source.path}:{number}: {match.group()}"
        for number, line in enumerate(source.text.splitlines(), 1)
        for match in UNFINISHED.finditer(line)
    ]


def no_silent_handlers(source):
    """No bare except, and no broad one whose body only looks away."""
    found = []
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.ExceptHandler):
            continue
        kinds = {n.id for n in ast.walk(node.type or node) if isinstance(n, ast.Name)}
        broad = kinds & {"Exception", "BaseException"}
        if node.type is None:
            found.append(source.at(node, "bare except"))
        elif broad and all(_looks_away(statement) for statement in node.body):
            found.append(source.at(node, "a broad except that says nothing"))
    return found


def _looks_away(statement):
    if isinstance(statement, ast.Return | ast.Expr):
        return statement.value is None or isinstance(statement.value, ast.Constant)
    return isinstance(statement, ast.Pass | ast.Continue | ast.Break)


# --- the rules over the repository, and over samples that break them -----------------

# rule: samples (path, text) of which each must be complained about
RULES = {
    import_table: [
        ("layers/x.py", "import tensorflow as tf\n"),
        ("layers/x.py", "from zoo.models import resnet\n"),
        ("layers/x.py", "def f():\n    import numpy\n"),
        ("datasets/x.py", "from zoo import layers\n"),
        ("datasets/x.py", "import keras\n"),
        ("zoo/models/x.py", "import zoo\n"),
        ("zoo/weights/x.py", "import zoo.training.schedule\n"),
        ("exports/x.py", "from zoo.datasets import video\n"),
        ("zoo/cellar/x.py", "import keras\n"),
    ],
    one_name_per_module: [
        ("tests/x.py", "import layers\n"),
        ("zoo/models/x.py", "from datasets.video import read_video\n"),
        ("layers/x.py", "from . import pooling\n"),
        ("layers/x.py", "from ..exports import signatures\n"),
    ],
    no_private_imports: [
        ("zoo/training/x.py", "from tensorflow.python.ops import array_ops\n"),
        ("tests/x.py", "from tensorflow import python\n"),
        ("layers/x.py", "import keras.src.layers\n"),
        ("layers/x.py", "from keras import src\n"),
    ],
    nobody_imports_main: [
        ("zoo/demo.py", "from zoo.__main__ import main\n"),
        ("benchmarks/x.py", "from zoo import __main__\n"),
    ],
    docstrings: [
        ("layers/x.py", "import keras\n"),
        ("zoo/x.py", '"""A module."""\n\n\ndef f():\n    return 1\n'),
        ("exports/x.py", '"""A module."""\n\n\nclass Thing:\n    size = 1\n'),
    ],
    citations: [
        ("layers/x.py", '"""A layer of 3.5 taps."""\n'),
        ("zoo/models/x.py", '"""Section 7.3."""\n\n\ndef f():\n    """A net."""\n'),
    ],
    few_keywords: [
        ("zoo/x.py", "def f(a=1, b=1, c=1, d=1, e=1, f=1, g=1, h=1, i=1):\n    ...\n"),
        ("zoo/x.py", "def f(*, a, b, c, d, e, f, g, h, i):\n    ...\n"),
        (
            "layers/x.py",
            "class A:\n    def __init__(self, a=1, b=1, c=1, d=1, e=1, f=1, g=1, "
            "h=1, i=1):\n        ...\n",
        ),
    ],
    file_length: [("zoo/x.py", "x = 1\n" * (MAX_LINES + 1))],
    finished: [
        ("zoo/x.py", "# TO" + "DO: the rest\n"),
        ("zoo/x.py", "raise NotImplemented" + "Error\n"),
    ],
    no_silent_handlers: [
        ("zoo/x.py", "try:\n    f()\nexcept:\n    raise\n"),
        ("zoo/x.py", "try:\n    f()\nexcept Exception:\n    pass\n"),
        ("zoo/x.py", "try:\n    f()\nexcept (OSError, Exception):\n    ...\n"),
        ("zoo/x.py", "def f():\n    try:\n        g()\n    except BaseException:\n"
         "        return None\n"),
    ],
}  # fmt: skip
# What the rules must let pass.
FINE = Source(
    "layers/fine.py",
    '"""A layer (thesis eq. 7.4)."""\n\nimport math\n\nimport keras\n\n'
    "from zoo.layers._clip import check\n\n\n"
    "def f(a, b=1):\n"
    '    """Does it, as in He et al. (2016)."""\n'
    "    try:\n        return keras.ops.sqrt(check(a, math.pi))\n"
    "    except Exception as error:\n        raise ValueError(b) from error\n",
)


@pytest.fixture(scope="module")
def sources():
    """All Python files of the repository."""
    found = read_sources()
    rooms = {source.top for source in found}
    assert rooms >= {*CODE, "tests", "setup.py"}, f"only found {sorted(rooms)}"
    return found


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_repository_keeps_the_rule(rule, sources):
    complaints = [text for source in sources for text in rule(source)]
    assert not complaints, f"{rule.__doc__}\n" + "\n".join(complaints)


@pytest.mark.parametrize(
    ("rule", "path", "text"),
    [(rule, *sample) for rule, samples in RULES.items() for sample in samples],
)
def test_the_rule_catches_what_breaks_it(rule, path, text):
    assert rule(Source(path, text))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_rule_lets_good_code_pass(rule):
    assert rule(FINE) == []


# --- packages, dependencies, words ---------------------------------------------------


def missing_init_files(root):
    """Folders that setuptools would leave out of the wheel without a word."""
    folders = {p.parent for name in CODE for p in (root / name).rglob("*.py")}
    return sorted(
        str(f.relative_to(root)) for f in folders if not (f / "__init__.py").exists()
    )


def test_every_code_folder_is_a_package(tmp_path):
    assert missing_init_files(ROOT) == []
    (tmp_path / "layers" / "gates").mkdir(parents=True)
    (tmp_path / "layers" / "gates" / "sum.py").touch()
    assert missing_init_files(tmp_path) == ["layers/gates"]


def declared(setup):
    """Names of the packages that setup.py requires, versions left off."""
    for node in setup.tree.body:
        if isinstance(node, ast.Assign) and node.targets[0].id == "REQUIREMENTS":
            names = ast.literal_eval(node.value)
            return {re.split("[<>=!~]", name)[0] for name in names}
    raise AssertionError("setup.py has no list REQUIREMENTS")


def needed(sources):
    """Names of the packages from outside that the code imports."""
    names = {
        name.split(".")[0]
        for source in sources
        if source.top in CODE
        for _, name in imported(source)
    }
    names -= {*sys.stdlib_module_names, "zoo"}
    return {DISTRIBUTIONS.get(name, name) for name in names}


def test_requirements_are_what_the_code_imports(sources):
    setup = next(source for source in sources if source.path == "setup.py")
    assert declared(setup) == (needed(sources) | INDIRECT) - OPTIONAL
    assert all(f'"{name}>=' in setup.text for name in OPTIONAL)


def test_requirements_are_read_from_the_source():
    setup = Source("setup.py", "REQUIREMENTS = ['av>=14', 'absl-py', 'keras']\n")
    code = [Source("zoo/x.py", "import av\nimport json\nfrom absl import app\n")]
    assert declared(setup) == {"av", "absl-py", "keras"}
    assert needed(code) == {"av", "absl-py"}


def test_one_version_everywhere():
    setup = (ROOT / "setup.py").read_text("utf-8")
    front = (ROOT / "zoo" / "__init__.py").read_text("utf-8")
    version = re.search(r'version="([\d.]+)"', setup).group(1)
    assert re.search(r'__version__ = "([\d.]+)"', front).group(1) == version
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text("utf-8")
