"""Reads and writes files of named arrays: safetensors, `torch.save`, folders that hold one. No name is understood here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from safetensors.numpy import load_file, save_file

from snp_jax.convert.torch_file import TorchTensor, read_torch_file
from snp_jax.errors import UserError

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
"""What a folder written by `transformers` keeps its weights in, best first."""
WRAPPERS = ("state_dict", "model", "model_state_dict", "module")
"""Keys under which training programs put the state dict beside optimiser and counters, in order of trust."""
SAFETENSORS_HEADER = 100_000_000
"""Bytes; longer headers are refused by the format."""

State = dict[str, np.ndarray]


def find_weights(path: Path) -> Path:
    """The file of weights at `path`, which may be the folder it is in.

    Raises:
        UserError: there is none.
    """
    if path.is_file():
        return path
    if not path.exists():
        raise UserError(f"{path} does not exist")
    for name in WEIGHT_FILES:
        if (path / name).is_file():
            return path / name
    shards = sorted(entry.name for entry in path.glob("*.index.json"))
    if shards:
        raise UserError(f"{path}: the weights are split over several files ({shards[0]}); save them as one file")
    raise UserError(f"{path}: a folder with neither {WEIGHT_FILES[0]} nor {WEIGHT_FILES[1]}; name the file of weights")


def read_state(path: Path) -> State:
    """Every array of a file, by name. The kind of file is told from its content, not from its name.

    Raises:
        UserError: no such file, damaged, no file of weights, or a pickle that asks for more than tensors.
    """
    file = find_weights(path)
    if _is_safetensors(file):
        try:
            return dict(load_file(file))
        except (safetensors.SafetensorError, OSError, ValueError, KeyError) as error:
            raise UserError(f"{file}: damaged or cut short ({' '.join(str(error).split())}); fetch it again") from error
    content = read_torch_file(file)
    tensors = {name: value for name, value in _state_dict(file, content).items() if isinstance(value, TorchTensor)}
    if not tensors:
        raise UserError(f"{file}: holds no named tensors; expected a state dict")
    state = {}
    for name, tensor in tensors.items():
        try:
            state[str(name)] = tensor.numpy()
        except Exception as error:
            raise UserError(
                f"{file}: {name} is damaged or cut short ({' '.join(str(error).split())}); fetch it again"
            ) from error
    return state


def write_state(path: Path, state: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Writes a safetensors file that PyTorch's programs can load, in one step: all of it or nothing."""
    temporary = path.with_name(f".{path.name}.partial")
    try:
        save_file({name: np.ascontiguousarray(array) for name, array in state.items()}, temporary, dict(metadata))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _is_safetensors(file: Path) -> bool:
    """Eight bytes of header length, then JSON."""
    with file.open("rb") as stream:
        start = stream.read(9)
    return len(start) == 9 and start[8:] == b"{" and int.from_bytes(start[:8], "little") <= SAFETENSORS_HEADER


def _state_dict(file: Path, content: Any) -> dict[str, Any]:
    """The state dict inside what was saved: itself, or under one of `WRAPPERS`."""
    for _ in range(3):
        if not isinstance(content, dict):
            raise UserError(f"{file}: holds a {type(content).__name__}, expected a state dict")
        inner = next((content[key] for key in WRAPPERS if isinstance(content.get(key), dict)), None)
        if inner is None:
            return content
        content = inner
    return content
