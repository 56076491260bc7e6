"""The laws of the house: who may import whom, what is public, what `import skembed` costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import skembed

PACKAGE = Path(skembed.__file__).parent
ROOMS = {"text", "image", "audio", "function", "tabular", "events", "graph"}
# Each may import what stands to its left, and itself.
ORDER = [
    "exceptions",
    "_forks",
    "_random_state",
    "_later",
    "_optional",
    "_models",
    "_files",
    "_folders",
    "_inputs",
    "_file_rows",
    "_report",
    "_sklearn",
    "_backbone",
    "_encoder",
    "store",
    "weights",
    "_workers",
    "_parameters",
    "modules",
    "acceleration",
    "engine",
    "columns",
    "training",
    "_estimator",
    "_base",
    "_learned",
    "_trainable",
    "_pretrained",
    "room",
    "neighbors",
    "inspection",
    "model_selection",
    "scale",
    "testing",
    "serving",
    "__main__",
]


def place(path):
    """Return the layer of a file or module path inside the package."""
    name = Path(path).parts[0].removesuffix(".py")
    return "room" if name in ROOMS else name


def imports_of(path):
    """Yield (module, is inside a function) for every import of skembed in a file."""
    tree = ast.parse(path.read_text())
    functions = [
        n for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))
    ]
    inside = {id(n) for function in functions for n in ast.walk(function)}
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [node.module or ""]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            if name.split(".")[0] == "skembed":
                yield name, id(node) in inside


FILES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_point_downward(path):
    if path == Path("__init__.py"):
        return
    here = place(path)
    assert here in ORDER, f"{path} stands in no layer"
    for module, is_inside in imports_of(PACKAGE / path):
        parts = module.split(".")
        assert len(parts) > 1, f"{path} imports the package root"
        assert not is_inside, f"{path} imports {module} inside a function"
        target = place(parts[1])
        assert ORDER.index(target) <= ORDER.index(here), f"{path} imports upwards: {module}"
        if here == target == "room":
            assert parts[1] == path.parts[0], f"{path} imports another room: {module}"
        if here == "testing":
            assert target in ("testing", "exceptions"), f"{path}: testing stands alone"


def test_public_names_exist_and_are_documented():
    for name in skembed.__all__:
        assert getattr(skembed, name) is not None
        assert name in dir(skembed)
    for name in {*skembed.__all__} - {"__version__"}:
        assert getattr(skembed, name).__doc__


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'ImageEmbeder'"):
        _ = skembed.ImageEmbeder


def test_every_exception_is_in_the_tree_of_its_module():
    for name in skembed.exceptions.__all__:
        if name[0].isupper():
            assert name in skembed.exceptions.__doc__


def test_import_skembed_imports_no_heavy_library():
    code = (
        "import sys, skembed; "
        "print([m for m in ('torch', 'transformers', 'sklearn', 'lmdb', 'huggingface_hub') "
        "if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
