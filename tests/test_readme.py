"""The README promises nothing that is not there: commands, files, models, functions."""

import ast
import os
import re
from pathlib import Path

import pytest

ROOT = Path(os.path.abspath(__file__)).parent.parent
PAGES = ("README.md", "CONTRIBUTING.md")


def code_of(page):
    """The text of the fenced blocks and of the inline code of a page."""
    text = (ROOT / page).read_text("utf-8")
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, flags=re.M | re.S)
    rest = re.sub(r"^```\w*\n.*?^```", "", text, flags=re.M | re.S)
    return "\n".join(blocks + re.findall(r"`([^`\n]+)`", rest))


def missing_targets(code, makefile):
    """Targets of `make` that the code names and the Makefile lacks."""
    targets = set(re.findall(r"^([a-z]+):", makefile, flags=re.M))
    return set(re.findall(r"^\s*make ([a-z]+)", code, flags=re.M)) - targets


def missing_commands(code, main):
    """Subcommands of `zoo` that the code names and the command line lacks."""
    words = {
        node.value
        for node in ast.walk(ast.parse(main))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    return set(re.findall(r"^\s*zoo ([a-z-]+)", code, flags=re.M)) - words


def missing_names(code, front):
    """Functions `zoo.<name>(` that the code calls and the front door lacks."""
    names = {
        node.name for node in ast.parse(front).body if isinstance(node, ast.FunctionDef)
    }
    for node in ast.walk(ast.parse(front)):
        if isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
    return set(re.findall(r"\bzoo\.(\w+)\(", code)) - names


def missing_imports(code, root):
    """Modules and names of zoo that a page imports and the sources lack."""
    missing = set()
    for line in re.findall(r"^(?:from|import) zoo\S*.*$", code, flags=re.M):
        (node,) = ast.parse(line.strip()).body
        if isinstance(node, ast.Import):
            missing |= {a.name for a in node.names if not module(a.name, root)}
            continue
        tree = ast.parse((module(node.module, root) or Path(os.devnull)).read_text())
        defined = {getattr(n, "name", None) for n in ast.walk(tree)}
        for alias in node.names:
            name = f"{node.module}.{alias.name}"
            if alias.name not in defined and not module(name, root):
                missing.add(name)
    return missing


def module(name, root):
    """The file of a dotted module of zoo, None if there is none."""
    parts = name.split(".")
    if len(parts) > 1 and parts[1] in ("layers", "datasets", "exports"):
        parts = parts[1:]
    base = root.joinpath(*parts)
    files = (base / "__init__.py", base.with_suffix(".py"))
    return next((path for path in files if path.exists()), None)


def registered(text):
    """Names of the functions decorated with @register."""
    return {
        node.name
        for node in ast.parse(text).body
        if isinstance(node, ast.FunctionDef)
        and any("register" in ast.unparse(d) for d in node.decorator_list)
    }


def table_of_models(text):
    """Names in the first column of the README's table of models."""
    section = text.split("## What is here")[1].split("\n## ")[0]
    cells = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", section, flags=re.M)
    return {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}


@pytest.mark.parametrize("page", PAGES)
def test_commands_exist(page):
    code = code_of(page)
    assert not missing_targets(code, (ROOT / "Makefile").read_text("utf-8"))
    files = (ROOT / "zoo/__main__.py", *sorted(ROOT.glob("zoo/*_commands.py")))
    assert not missing_commands(code, "".join(f.read_text("utf-8") for f in files))
    assert not missing_names(code, (ROOT / "zoo/__init__.py").read_text("utf-8"))
    assert not missing_imports(code, ROOT)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files(page):
    text = (ROOT / page).read_text("utf-8")
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", text)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_table_lists_the_registered_models():
    names = set()
    for path in (ROOT / "zoo" / "models").glob("*.py"):
        names |= registered(path.read_text("utf-8"))
    assert names
    assert table_of_models((ROOT / "README.md").read_text("utf-8")) == names


def test_a_false_promise_is_found(tmp_path):
    (tmp_path / "layers").mkdir()
    (tmp_path / "layers" / "__init__.py").write_text("from zoo.layers.a import Gate\n")
    code = "from zoo.layers import Gate, Door\nimport zoo.cellar\nfrom zoo.x import y\n"
    wanted = {"zoo.layers.Door", "zoo.cellar", "zoo.x.y"}
    assert missing_imports(code, tmp_path) == wanted
    assert missing_targets("make tea\nmake test\n", "test: x\n") == {"tea"}
    assert missing_commands("zoo fly x\nzoo list\n", "NAMES = ['list']\n") == {"fly"}
    front = "from zoo.registry import info\n\n\ndef load(name):\n    pass\n"
    assert missing_names("zoo.load(1)\nzoo.info(1)\nzoo.sing()\n", front) == {"sing"}
    models = "@register(a=1)\ndef net():\n    pass\n\n\ndef helper():\n    pass\n"
    assert registered(models) == {"net"}
    table = "## What is here\n\n| `net`, `b` | x |\n\n## More\n| `other` | y |\n"
    assert table_of_models(table) == {"net", "b"}
