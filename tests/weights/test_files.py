"""Which files of a folder or repository are the model."""

import json

import pytest
import torch
from safetensors.torch import save_file

from skembed.exceptions import UnsafeModelError, UnsupportedModelError
from skembed.weights import check_weights
from skembed.weights._files import model_files, wanted_files


def names(files):
    return [path.name for path in files]


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
        (["onnx/model.onnx"], r"only weights for ONNX \(onnx/model\.onnx\)"),
        (["tf_model.h5"], r"only weights for TensorFlow \(tf_model\.h5\)"),
        (["openvino/openvino_model.xml"], "only weights for OpenVINO"),
        (["model.Q4.gguf"], "only weights for GGUF"),
        (["adapter_config.json"], "it is a LoRA adapter"),
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
    with pytest.raises(UnsupportedModelError, match=r"is damaged: .* bytes where its header tells"):
        check_weights(tmp_path)


@pytest.mark.parametrize("content", [b"", b"abc", b"\xff" * 100, b"\x02" + b"\0" * 7 + b"[]"])
def test_what_is_no_safetensors_file_is_told_from_its_header(tmp_path, content):
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(UnsupportedModelError, match="no safetensors header"):
        check_weights(tmp_path)


def test_a_git_lfs_pointer_is_not_taken_for_weights(tmp_path):
    (tmp_path / "pytorch_model.bin").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(UnsupportedModelError, match="run `git lfs pull`"):
        check_weights(tmp_path)
