"""The files of a published ELMo: options in JSON, weights in HDF5, as AllenNLP reads them.

Owns their names, the names and shapes of their datasets, and which tensor is which. Must not know
texts or how the model is run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skembed._optional import import_optional
from skembed.exceptions import ModelNotFoundError, UnsupportedModelError
from skembed.modules import BiLMSizes
from skembed.weights import read_json

__all__ = ["find_files", "read_options", "read_state", "sizes_of", "write_files"]

MIX = "scalar_mix_parameters"
"""AllenNLP's name for the weights of the layers before their softmax; published files have none."""

_OPTIONS, _WEIGHTS = "options.json", "weights.hdf5"
_N_CHARACTERS = 261
"""256 bytes, and what begins and ends sentences and words, and pads words."""
_N_NAMED = 5

_Arrays = dict[str, NDArray[np.float32]]


def find_files(model: str | os.PathLike[str]) -> tuple[Path, Path]:
    """Return the options and the weights of a model: of its folder, or one of the two files."""
    place = Path(os.path.expanduser(model))  # noqa: PTH111  (never raises)
    if not place.is_dir():
        folder, chosen = place.parent, place.name
        if not place.is_file():
            raise ModelNotFoundError(f"There is no file {str(model)!r}.{_where(place)}")
    else:
        folder, chosen = place, ""
    names = sorted(each.name for each in folder.iterdir() if each.is_file())
    options = [name for name in names if name.endswith(_OPTIONS)]
    weights = [name for name in names if name.endswith(_WEIGHTS)]
    pairs = [
        (name, name.removesuffix(_OPTIONS) + _WEIGHTS)
        for name in options
        if name.removesuffix(_OPTIONS) + _WEIGHTS in weights
    ]
    if chosen:
        pairs = [pair for pair in pairs if chosen in pair]
    if not pairs and len(options) == len(weights) == 1:
        pairs = [(options[0], weights[0])]
    if len(pairs) == 1:
        return folder / pairs[0][0], folder / pairs[0][1]
    if pairs:
        raise ModelNotFoundError(
            f"The folder {str(model)!r} has {len(pairs)} ELMo models. Pass the options of the one "
            f"you mean: {', '.join(str(folder / name) for name, _ in pairs)}."
        )
    found = [*options, *weights]
    raise ModelNotFoundError(
        f"{str(model)!r}: an ELMo model is two files side by side, {_OPTIONS} and {_WEIGHTS}, "
        f"or names that end so and begin alike (elmo_small_{_OPTIONS}, elmo_small_{_WEIGHTS}). "
        f"{folder} has {', '.join(found) or 'none of these'}."
    )


def _where(place: Path) -> str:
    return "" if place.is_absolute() else f" The working directory is {Path.cwd()}."


def read_options(path: Path) -> dict[str, Any]:
    """Return the options of a model, after a look at them."""
    options = read_json(path)
    faults = list(_faults_of(options))
    if faults:
        raise UnsupportedModelError(
            f"{path} has no options of an ELMo model that skembed runs: {'; '.join(faults)}."
        )
    return dict(options)


def _faults_of(options: Any) -> Iterator[str]:
    lstm, cnn = (_part(options, name) for name in ("lstm", "char_cnn"))
    counts = {
        **{f"lstm.{name}": lstm.get(name) for name in ("projection_dim", "dim", "n_layers")},
        "char_cnn.max_characters_per_token": cnn.get("max_characters_per_token"),
        "char_cnn.embedding.dim": _part(cnn, "embedding").get("dim"),
    }
    for name, value in counts.items():
        if type(value) is not int or value < 1:
            yield f"{name} is {value!r}, expected a number of at least 1"
    n_most = cnn.get("max_characters_per_token")
    filters = cnn.get("filters")
    is_list = isinstance(filters, list) and filters
    pairs = filters if is_list and all(map(_is_pair, filters)) else None  # type: ignore[arg-type]
    if pairs is None:
        yield f"char_cnn.filters is {filters!r:.60}, expected pairs [width, number]"
    elif type(n_most) is int and max(width for width, _ in pairs) > n_most:
        yield f"char_cnn.filters are wider than a word of {n_most} characters"
    if type(cnn.get("n_highway")) is not int or cnn["n_highway"] < 0:
        yield f"char_cnn.n_highway is {cnn.get('n_highway')!r}, expected a number"
    if cnn.get("activation") not in ("relu", "tanh"):
        yield f"char_cnn.activation is {cnn.get('activation')!r}, expected 'relu' or 'tanh'"
    if not lstm.get("use_skip_connections"):
        yield "lstm.use_skip_connections is not true: the published models have residual layers"
    for name in ("cell_clip", "proj_clip"):
        value = lstm.get(name)
        if value is not None and (type(value) not in (int, float) or value < 0):
            yield f"lstm.{name} is {value!r}, expected a number"
    mix = options.get(MIX) if isinstance(options, dict) else None
    if mix is not None:
        n_layers = lstm.get("n_layers")
        n = n_layers + 1 if type(n_layers) is int else 0
        is_mix = isinstance(mix, list) and len(mix) == n
        if not is_mix or any(type(each) not in (int, float) for each in mix):
            yield f"{MIX} is {mix!r:.60}, expected {n} numbers, one for each layer"


def _part(options: Any, name: str) -> dict[str, Any]:
    part = options.get(name) if isinstance(options, dict) else None
    return part if isinstance(part, dict) else {}


def _is_pair(value: Any) -> bool:
    is_list = isinstance(value, list) and len(value) == 2
    return is_list and all(type(each) is int and each > 0 for each in value)


def sizes_of(options: Mapping[str, Any]) -> BiLMSizes:
    """Return the sizes of the model that options are of."""
    cnn, lstm = options["char_cnn"], options["lstm"]
    return BiLMSizes(
        n_characters=_N_CHARACTERS,
        n_character_features=cnn["embedding"]["dim"],
        filters=tuple((width, n) for width, n in cnn["filters"]),
        activation=cnn["activation"],
        n_highway=cnn["n_highway"],
        n_layers=lstm["n_layers"],
        n_cells=lstm["dim"],
        n_features=lstm["projection_dim"],
        cell_clip=lstm.get("cell_clip"),
        projection_clip=lstm.get("proj_clip"),
    )


def _shapes(sizes: BiLMSizes) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all datasets by name."""
    n_in, n, d, n_cells = (
        *(sizes.n_character_features, sizes.n_filters),
        *(sizes.n_features, sizes.n_cells),
    )
    shapes: dict[str, tuple[int, ...]] = {"char_embed": (sizes.n_characters, n_in)}
    for i, (width, n_of_width) in enumerate(sizes.filters):
        shapes[f"CNN/W_cnn_{i}"] = (1, width, n_in, n_of_width)
        shapes[f"CNN/b_cnn_{i}"] = (n_of_width,)
    for i in range(sizes.n_highway):
        for gate in ("carry", "transform"):
            shapes[f"CNN_high_{i}/W_{gate}"] = (n, n)
            shapes[f"CNN_high_{i}/b_{gate}"] = (n,)
    shapes |= {"CNN_proj/W_proj": (n, d), "CNN_proj/b_proj": (d,)}
    for cell in _cells(sizes).values():
        shapes |= {
            f"{cell}/W_0": (2 * d, 4 * n_cells),
            f"{cell}/B": (4 * n_cells,),
            f"{cell}/W_P_0": (n_cells, d),
        }
    return shapes


def _cells(sizes: BiLMSizes) -> dict[str, str]:
    """Return the groups of the LSTMs by the names of their modules."""
    return {
        f"layers.{i + 1}.{direction}": f"RNN_{n}/RNN/MultiRNNCell/Cell{i}/LSTMCell"
        for n, direction in enumerate(("forth", "back"))
        for i in range(sizes.n_layers)
    }


def read_state(path: Path, options: Mapping[str, Any]) -> dict[str, Tensor]:
    """Read weights as the state dict of a `BiLM`, in float32; the mix is what the options say."""
    sizes = sizes_of(options)
    arrays = _read_arrays(path, _shapes(sizes))
    state = {name: torch.from_numpy(array) for name, array in _to_state(arrays, sizes).items()}
    mix = options.get(MIX) or [0.0] * (sizes.n_layers + 1)
    return {**state, "mix.weight": torch.tensor(mix, dtype=torch.float32)}


def _read_arrays(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> _Arrays:
    h5py = import_optional("h5py", extra="elmo", purpose=f"Reading {path.name}")
    arrays: _Arrays = {}
    faults = []
    try:
        with h5py.File(path, "r") as file:
            for name, shape in shapes.items():
                found = file.get(name)
                fault = _why_not(h5py, found, shape, file)
                if fault:
                    faults.append(f"{name} {fault}")
                elif not faults:
                    arrays[name] = np.asarray(found[...], dtype=np.float32)
    except OSError as error:
        raise UnsupportedModelError(
            f"{path} cannot be read as HDF5: {error}. Download it again."
        ) from None
    if faults:
        more = f"; and {len(faults) - _N_NAMED} more" if len(faults) > _N_NAMED else ""
        raise UnsupportedModelError(
            f"{path} does not hold the weights of the ELMo model that the options beside it are "
            f"of: {'; '.join(faults[:_N_NAMED])}{more}. Take both files of one model."
        )
    return arrays


def _why_not(h5py: Any, found: Any, shape: tuple[int, ...], file: Any) -> str:
    """Say why what a file has under a name is not the dataset expected there, "" if it is."""
    if not isinstance(found, h5py.Dataset):
        return "is missing" if found is None else f"is a {type(found).__name__}, not a dataset"
    if found.shape != shape:
        return f"has shape {found.shape} where {shape} is expected"
    if found.dtype.kind != "f":
        return f"holds {found.dtype} where real numbers are expected"
    # Its values would be those of a file that the model's digest does not know.
    if found.file.filename != file.filename or found.is_virtual or found.external:
        return "lies in another file"
    return ""


def _to_state(arrays: _Arrays, sizes: BiLMSizes) -> _Arrays:
    """Return the weights of a `BiLM`, for which TensorFlow's are turned around."""
    state = {"layers.0.embedding.weight": arrays["char_embed"]}
    for i in range(len(sizes.filters)):
        weight = arrays[f"CNN/W_cnn_{i}"][0].transpose(2, 1, 0)
        state[f"layers.0.filters.{i}.weight"] = weight
        state[f"layers.0.filters.{i}.bias"] = arrays[f"CNN/b_cnn_{i}"]
    for i in range(sizes.n_highway):
        for gate in ("carry", "transform"):
            state[f"layers.0.highways.{i}.{gate}.weight"] = arrays[f"CNN_high_{i}/W_{gate}"].T
            state[f"layers.0.highways.{i}.{gate}.bias"] = arrays[f"CNN_high_{i}/b_{gate}"]
    state["layers.0.projection.weight"] = arrays["CNN_proj/W_proj"].T
    state["layers.0.projection.bias"] = arrays["CNN_proj/b_proj"]
    for name, cell in _cells(sizes).items():
        state[f"{name}.input.weight"] = arrays[f"{cell}/W_0"][: sizes.n_features].T
        state[f"{name}.state.weight"] = arrays[f"{cell}/W_0"][sizes.n_features :].T
        state[f"{name}.input.bias"] = arrays[f"{cell}/B"] + _forget_bias(sizes)
        state[f"{name}.projection.weight"] = arrays[f"{cell}/W_P_0"].T
    return {name: np.ascontiguousarray(array) for name, array in state.items()}


def _to_arrays(state: Mapping[str, NDArray[np.float32]], sizes: BiLMSizes) -> _Arrays:
    """Return the datasets of a model's weights."""
    arrays = {"char_embed": state["layers.0.embedding.weight"]}
    for i in range(len(sizes.filters)):
        weight = state[f"layers.0.filters.{i}.weight"].transpose(2, 1, 0)
        arrays[f"CNN/W_cnn_{i}"] = weight[None]
        arrays[f"CNN/b_cnn_{i}"] = state[f"layers.0.filters.{i}.bias"]
    for i in range(sizes.n_highway):
        for gate in ("carry", "transform"):
            arrays[f"CNN_high_{i}/W_{gate}"] = state[f"layers.0.highways.{i}.{gate}.weight"].T
            arrays[f"CNN_high_{i}/b_{gate}"] = state[f"layers.0.highways.{i}.{gate}.bias"]
    arrays["CNN_proj/W_proj"] = state["layers.0.projection.weight"].T
    arrays["CNN_proj/b_proj"] = state["layers.0.projection.bias"]
    for name, cell in _cells(sizes).items():
        both = [state[f"{name}.{part}.weight"].T for part in ("input", "state")]
        arrays[f"{cell}/W_0"] = np.concatenate(both)
        arrays[f"{cell}/B"] = state[f"{name}.input.bias"] - _forget_bias(sizes)
        arrays[f"{cell}/W_P_0"] = state[f"{name}.projection.weight"].T
    return arrays


def _forget_bias(sizes: BiLMSizes) -> NDArray[np.float32]:
    """Return what TensorFlow adds to the gates i, j, f, o: 1 to the third."""
    return np.repeat(np.array([0, 0, 1, 0], dtype=np.float32), sizes.n_cells)


def write_files(
    folder: Path, options: Mapping[str, Any], state: Mapping[str, Tensor]
) -> list[float]:
    """Write options and weights of a model into a folder; return the mix of its layers."""
    h5py = import_optional("h5py", extra="elmo", purpose=f"Writing {_WEIGHTS}")
    values = {name: each.detach().cpu().float().numpy() for name, each in state.items()}
    mix: list[float] = values.pop("mix.weight").tolist()
    arrays = _to_arrays(values, sizes_of(options))
    with h5py.File(folder / _WEIGHTS, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array)
    told = json.dumps({**options, MIX: mix}, indent=2)
    (folder / _OPTIONS).write_text(told, encoding="utf-8")
    return mix
