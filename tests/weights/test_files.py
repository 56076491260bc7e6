"""Which files of a folder or repository are the model."""

import json

import pytest
import torch
from safetensors.torch import save_file

from skembed.exceptions import UnsafeModelError, UnsupportedModelError
from skembed.weights import check_weights, folder_digest, read_modules
from skembed.weights._files import missing_part, model_files, wanted_files

ST = "sentence_transformers.models."


def names(files):
    return [path.name for path in files]


def write_modules(folder, *modules):
    rows = [{"type": kind, "path": path} for kind, path in modules]
    (folder / "modules.json").write_text(json.dumps(rows))


def test_weights_are_chosen_per_folder_and_once():
    offered = [
        "config.json",
        "model.safetensors",
        "model.fp16.safetensors",
        "pytorch_model.bin",
        "training_args.bin",
        "2_Dense/config.json",
        "2_Dense/pytorch_model.bin",
        "onnx/config.json",
        "onnx/model.onnx",
        "openvino/openvino_model.bin",
        ".cache/x.json",
        "README.txt",
        "modeling_x.py",
        "spiece.model",
        "merges.txt",
    ]
    assert wanted_files(offered) == [
        "2_Dense/config.json",
        "2_Dense/pytorch_model.bin",
        "config.json",
        "merges.txt",
        "model.safetensors",
        "modeling_x.py",
        "spiece.model",
    ]


def test_shards_are_chosen_with_their_index():
    offered = [
        "config.json",
        "consolidated.safetensors",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
        "pytorch_model-00001-of-00001.bin",
    ]
    assert wanted_files(offered) == [
        "config.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    ]


@pytest.mark.parametrize(
    "weights", ["model.onnx", "tf_model.h5", "model.gguf", "training_args.bin"]
)
def test_a_repository_without_readable_weights_offers_nothing(weights):
    assert wanted_files(["config.json", weights]) == []


def test_the_files_of_a_model_leave_out_what_it_is_not_read_from(tmp_path):
    for name in (
        "config.json",
        "1_Pooling/config.json",
        "model.safetensors",
        "README.md",
        "script.py",
        "onnx/config.json",
        "checkpoint-500/optimizer.pt",
        ".git/x.json",
        ".hidden.json",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    assert model_files(tmp_path) == [
        "1_Pooling/config.json",
        "config.json",
        "model.safetensors",
        "script.py",
    ]


def test_a_link_that_leads_back_is_followed_once(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "config.json").write_text("")
    (tmp_path / "a" / "loop").symlink_to(tmp_path, target_is_directory=True)
    assert model_files(tmp_path) == ["a/config.json"]


def test_of_two_links_to_one_folder_the_first_by_name_counts(tmp_path):
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "config.json").write_text("")
    model = tmp_path / "model"
    model.mkdir()
    for name in "fhcabged":
        (model / name).symlink_to(tmp_path / "shared", target_is_directory=True)
    (model / "itself").symlink_to("itself")
    assert model_files(model) == ["a/config.json"]


def test_an_adapter_beside_whole_weights_is_refused(tmp_path, write_model):
    """transformers would load it where peft is installed, and ignore it elsewhere."""
    folder = write_model(tmp_path)
    assert names(check_weights(folder)) == ["model.safetensors"]
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(UnsupportedModelError, match=r"beside whole weights.*Merge it into the"):
        check_weights(folder)


def test_modules_are_read_in_their_order_with_their_full_types(tmp_path):
    write_modules(
        tmp_path, (ST + "Transformer", ""), ("other.Pooling", "1_Pooling"), (ST + "Dense", "b/2")
    )
    assert read_modules(tmp_path) == [
        (ST + "Transformer", tmp_path),
        ("other.Pooling", tmp_path / "1_Pooling"),
        (ST + "Dense", tmp_path / "b" / "2"),
    ]


def test_a_module_without_a_path_is_in_the_folder_itself(tmp_path):
    (tmp_path / "modules.json").write_text('[{"type": "x.Y"}]')
    assert read_modules(tmp_path) == [("x.Y", tmp_path)]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "{}",
        "3",
        '{"type": "x", "path": ""}',
        '["x"]',
        "[[]]",
        "[{}]",
        '[{"type": 3, "path": ""}]',
        '[{"type": "x", "path": 3}]',
        '[{"type": "x", "path": null}]',
        b"\xff",
    ],
)
def test_a_damaged_list_of_modules_is_named(tmp_path, content):
    content = content if isinstance(content, bytes) else content.encode()
    (tmp_path / "modules.json").write_bytes(content)
    with pytest.raises(UnsupportedModelError, match=r"modules\.json is damaged"):
        read_modules(tmp_path)


@pytest.mark.parametrize(
    "path", ["..", "../x", "a/../../x", "/etc", "C:\\x", "C:x", "\\x", "a\\..\\..\\x"]
)
def test_a_module_may_not_lie_outside_of_the_folder(tmp_path, path):
    write_modules(tmp_path, (ST + "Dense", path))
    with pytest.raises(UnsupportedModelError, match=r"modules\.json puts .* leads out of the"):
        read_modules(tmp_path)
    assert "leads out of the folder" in missing_part(tmp_path)


@pytest.mark.parametrize(
    "path",
    [".hidden", "onnx", "ONNX", "checkpoint-12", "Checkpoint-12", "a/openvino/b", "a\\.b"],
)
def test_a_module_may_not_lie_where_the_digest_does_not_look(tmp_path, write_model, path):
    write_modules(tmp_path, (ST + "Transformer", path))
    digest = folder_digest(tmp_path)
    write_model(tmp_path.joinpath(*path.split("\\")))
    assert folder_digest(tmp_path) == digest
    with pytest.raises(UnsupportedModelError, match=r"reads no files.*Rename the module's folder"):
        read_modules(tmp_path)


def test_a_transformer_needs_its_own_config(tmp_path, write_model):
    """Nothing can be loaded from sentence_bert_config.json, which only adds to it."""
    folder = write_model(tmp_path)
    write_modules(folder, (ST + "Transformer", ""))
    (folder / "sentence_bert_config.json").write_text("{}")
    assert missing_part(folder) is None
    (folder / "config.json").unlink()
    assert missing_part(folder) == "config.json is missing"


@pytest.mark.parametrize("kind", ["Dense", "LayerNorm"])
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_modules_that_sentence_transformers_saves_are_whole_with_their_weights(
    tmp_path, write_model, kind, name
):
    modules = pytest.importorskip("sentence_transformers.sentence_transformer.modules")
    module = modules.LayerNorm(4) if kind == "LayerNorm" else modules.Dense(4, 2)
    folder = write_model(tmp_path)
    part = folder / f"2_{kind}"
    part.mkdir()
    module.save(str(part), safe_serialization=name.endswith(".safetensors"))
    write_modules(folder, (ST + "Transformer", ""), (f"{ST}{kind}", part.name))
    assert missing_part(folder) is None
    (part / name).unlink()
    assert f"{part} holds no weights" in missing_part(folder)


@pytest.mark.parametrize("kind", ["Pooling", "Dense", "LayerNorm"])
def test_a_module_needs_its_config(tmp_path, write_model, kind):
    part = write_model(write_model(tmp_path) / f"1_{kind}")
    write_modules(tmp_path, (ST + "Transformer", ""), (f"{ST}{kind}", part.name))
    assert missing_part(tmp_path) is None
    (part / "config.json").unlink()
    assert missing_part(tmp_path) == f"1_{kind}/config.json is missing"


def test_safetensors_are_preferred(tmp_path, write_model):
    torch.save({"w": torch.ones(1)}, write_model(tmp_path) / "pytorch_model.bin")
    assert names(check_weights(tmp_path)) == ["model.safetensors"]


def test_a_pickle_of_tensors_passes(tmp_path):
    torch.save({"w": torch.ones(1)}, tmp_path / "pytorch_model.bin")
    assert names(check_weights(tmp_path)) == ["pytorch_model.bin"]


def test_a_pickle_of_more_is_refused_before_it_is_read(tmp_path):
    torch.save(torch.nn.Linear(1, 1), tmp_path / "pytorch_model.bin")
    with pytest.raises(UnsafeModelError, match=r"names torch\.nn\.modules\.linear\.Linear"):
        check_weights(tmp_path)


def test_shards_are_listed_by_their_index(tmp_path):
    shards = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    for name in shards:
        save_file({name: torch.ones(1)}, tmp_path / name)
    index = {"weight_map": {name: name for name in shards}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert names(check_weights(tmp_path)) == shards


@pytest.mark.parametrize("shard", ["../x.safetensors", "/etc/x.safetensors", "C:\\x.safetensors"])
def test_an_index_may_not_lead_out_of_the_folder(tmp_path, shard):
    index = {"weight_map": {"w": shard}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UnsupportedModelError, match="must be files of the same folder"):
        check_weights(tmp_path)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"weight_map": {}}', '{"weight_map": {"a": 1}}']
)
def test_a_damaged_index_is_named(tmp_path, content):
    (tmp_path / "pytorch_model.bin.index.json").write_text(content)
    with pytest.raises(UnsupportedModelError, match=r"index\.json is damaged"):
        check_weights(tmp_path)


@pytest.mark.parametrize(
    ("there", "message"),
    [
        (["onnx/model.onnx"], r"holds no weights that .*it holds config\.json, onnx/\."),
        (["tf_model.h5"], r"holds no weights that .*it holds config\.json, tf_model\.h5"),
        (["adapter_config.json"], "It is a LoRA adapter"),
        ([], "holds no weights that skembed reads"),
    ],
)
def test_what_is_there_instead_of_weights_is_said(tmp_path, there, message):
    for name in ["config.json", *there]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    with pytest.raises(UnsupportedModelError, match=message):
        check_weights(tmp_path)


def test_a_file_cut_short_is_told_from_its_header(tmp_path, write_model):
    path = write_model(tmp_path) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UnsupportedModelError, match=r"safetensors is damaged: .*not fully cover"):
        check_weights(tmp_path)


@pytest.mark.parametrize("content", [b"", b"abc", b"\xff" * 100, b"\x02" + b"\0" * 7 + b"[]"])
def test_what_is_no_safetensors_file_is_told_from_its_header(tmp_path, content):
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(UnsupportedModelError, match=r"model\.safetensors is damaged: .*header"):
        check_weights(tmp_path)


def test_a_git_lfs_pointer_is_not_taken_for_weights(tmp_path):
    (tmp_path / "pytorch_model.bin").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(UnsupportedModelError, match="run `git lfs pull`"):
        check_weights(tmp_path)
