"""The site has a page for each public name and each guide, without building it."""

import importlib.util
import re
from importlib import import_module
from pathlib import Path

import pytest

import skembed

DOCS = Path(__file__).parent.parent / "docs"

ROOMS = {path.parent.name for path in Path(skembed.__file__).parent.glob("[!_]*/__init__.py")}


@pytest.fixture(scope="module")
def reference():
    spec = importlib.util.spec_from_file_location("reference", DOCS / "reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def public(reference):
    return reference.find_public()


def test_each_public_name_is_on_a_page(reference, public):
    pages = "\n".join(reference.pages_of(public).values())
    described = set(re.findall(r"^\.\. auto(?:class|function):: (\w+)$", pages, re.MULTILINE))
    rooms = (ROOMS - reference.HOUSE) | {"exceptions"}
    for module in ("skembed", *(f"skembed.{room}" for room in rooms)):
        for name in import_module(module).__all__:
            value = getattr(import_module(module), name)
            is_class = isinstance(value, type)
            is_of_house = f"{module}.{name}" in reference.HOUSE_NAMES
            if callable(value) and not is_of_house and (is_class or module != reference.ERRORS):
                assert name in described, f"{module}.{name}"


def test_each_page_is_in_the_index(reference, public):
    index = reference.index_of(public)
    assert not [name for name in public if f"\n   {name}\n" not in index]
    assert not [page for page in reference.pages_of(public) if f"\n   {page}\n" not in index]


def test_each_name_in_the_order_of_the_index_exists(reference, public):
    patterns = " ".join(patterns for *_, patterns in reference.SECTIONS).split()
    assert not [p for p in patterns if "*" not in p and f"skembed.{p}" not in public]


def test_pages_that_are_the_same_are_not_written_again(reference, tmp_path):
    reference.write_pages(tmp_path)
    (tmp_path / "skembed.Gone.rst").write_text("of a name that is gone")
    times = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*Embedder.rst")}
    reference.write_pages(tmp_path)
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert not (tmp_path / "skembed.Gone.rst").exists()


def test_each_guide_is_in_the_navigation():
    listed = "".join((DOCS / name).read_text(encoding="utf-8") for name in ("index.md", "guide.md"))
    entries = set(re.findall(r"^(?:[^`\n]*<)?(\w+)>?$", listed, re.MULTILINE))
    assert {path.stem for path in DOCS.glob("*.md")} - {"index"} <= entries
