"""Reads PyTorch's `.pth`, `.bin`, `.pt` and `.ckpt` files without PyTorch, and without running what is in them.

Such a file is a pickle, a program for a small machine that may call any function by name. Files of weights come from strangers,
so the unpickler here knows a fixed list of names and gives each a stand-in of ours: tensors become descriptions of bytes, a few
harmless containers become dicts, and every other name ends the reading. Both layouts are read: the zip archive (PyTorch 1.6 and
later) and the plain sequence of pickles before it.
"""

from __future__ import annotations

import dataclasses
import functools
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from snp_jax.errors import UserError

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
ZIP_START, PICKLE_START = b"PK\x03\x04", b"\x80"

STORAGES = {
    "DoubleStorage": np.dtype(np.float64), "FloatStorage": np.dtype(np.float32), "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16), "LongStorage": np.dtype(np.int64), "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16), "CharStorage": np.dtype(np.int8), "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
}  # fmt: skip


@dataclasses.dataclass
class Storage:
    """The bytes behind one or more tensors; `read` gives them, where the file has them."""

    dtype: np.dtype
    numel: int
    read: Callable[[], bytes] | None = None


@dataclasses.dataclass(frozen=True)
class TorchTensor:
    """A tensor that has not been read yet: a strided view of a storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def numpy(self) -> np.ndarray:
        """Reads it.

        Raises:
            ValueError: the view reaches outside its storage, or the file has fewer bytes than it says.
        """
        storage = self.storage
        if len(self.shape) != len(self.strides) or min((0, self.offset, *self.shape, *self.strides)) < 0:
            raise ValueError("a tensor has a negative size")
        last = self.offset + sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))
        if 0 not in self.shape and last >= storage.numel:
            raise ValueError(f"a tensor of shape {self.shape} reaches outside its storage of {storage.numel} numbers")
        if storage.read is None:
            raise ValueError("the bytes of a tensor are missing")
        data = storage.read()
        if len(data) != storage.numel * storage.dtype.itemsize:
            raise ValueError(f"{len(data)} bytes where {storage.numel} numbers of {storage.dtype.itemsize} bytes should be")
        flat = np.frombuffer(data, storage.dtype)[self.offset :]
        if 0 in self.shape:
            return np.zeros(self.shape, storage.dtype)
        strides = [stride * storage.dtype.itemsize for stride in self.strides]
        return np.array(np.lib.stride_tricks.as_strided(flat, self.shape, strides), order="C")


class _Inert:
    """A stand-in for a name in the file. Not even its attributes can be set from there."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("a part of the file tries to change the reader")


class _StorageType(_Inert):
    __slots__ = ("dtype",)

    def __init__(self, dtype: np.dtype):
        object.__setattr__(self, "dtype", dtype)


class _RebuildTensor(_Inert):
    """`torch._utils._rebuild_tensor_v2(storage, offset, size, stride, ...)`."""

    __slots__ = ()

    def __call__(self, storage: Any, offset: int, shape: Any, strides: Any, *_rest: Any) -> TorchTensor:
        numbers = (offset, *shape, *strides)
        if not isinstance(storage, Storage) or not all(isinstance(number, int) for number in numbers):
            raise pickle.UnpicklingError("a tensor is not described as PyTorch does")
        return TorchTensor(storage, offset, tuple(shape), tuple(strides))


class _RebuildParameter(_Inert):
    """`torch._utils._rebuild_parameter(data, ...)`: a parameter is its tensor."""

    __slots__ = ()

    def __call__(self, data: Any, *_rest: Any) -> Any:
        return data


class _Opaque(_Inert):
    """A value of no interest (a device, a dtype, a size)."""

    __slots__ = ()

    def __call__(self, *_arguments: Any) -> _Opaque:
        return self


class _Mapping(dict):
    """What ordered dicts, namespaces and the like become; attributes set on them are dropped."""

    __slots__ = ()

    def __init__(self, *arguments: Any):
        super().__init__(*(argument for argument in arguments[:1] if isinstance(argument, (dict, list, tuple))))

    def __setstate__(self, state: Any) -> None:
        pass


def _known_names() -> dict[tuple[str, str], Any]:
    names: dict[tuple[str, str], Any] = {
        ("collections", "OrderedDict"): _Mapping, ("argparse", "Namespace"): _Mapping, ("builtins", "set"): set,
        ("__builtin__", "set"): set, ("builtins", "complex"): complex, ("torch._utils", "_rebuild_tensor_v2"): _RebuildTensor(),
        ("torch._utils", "_rebuild_tensor"): _RebuildTensor(), ("torch._utils", "_rebuild_parameter"): _RebuildParameter(),
        ("torch", "Size"): tuple, ("torch", "device"): _Opaque(), ("torch.serialization", "_get_layout"): _Opaque(),
    }  # fmt: skip
    for name, dtype in STORAGES.items():
        names["torch", name] = names["torch.storage", name] = _StorageType(dtype)
    for name in ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"):
        names["torch", name] = _Opaque()
    return names


KNOWN = _known_names()
"""(module, name) -> stand-in. Nothing else in a file has a meaning here."""


class _Reader(pickle.Unpickler):
    """An unpickler without access to Python: names are looked up in `KNOWN` alone."""

    def __init__(self, stream: BinaryIO, find_storage: Callable[[str, np.dtype, int], Storage]):
        super().__init__(stream, encoding="utf-8")
        self._find_storage = find_storage

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in KNOWN:
            raise _Forbidden(f"{module}.{name}")
        return KNOWN[module, name]

    def persistent_load(self, pid: Any) -> Storage:
        if not (isinstance(pid, tuple) and len(pid) >= 5 and pid[0] in ("storage", b"storage")):
            raise pickle.UnpicklingError("a storage is not described as PyTorch does")
        kind, key, numel = pid[1], str(pid[2]), pid[4]
        if (
            not isinstance(kind, _StorageType)
            or not isinstance(numel, int)
            or numel < 0
            or (len(pid) > 5 and pid[5] is not None)
        ):
            raise pickle.UnpicklingError("a storage is not described as PyTorch does")
        return self._find_storage(key, kind.dtype, numel)


class _Forbidden(Exception):
    """The file asks for a name that is not in `KNOWN`."""


def read_torch_file(path: Path) -> Any:
    """The object in a file of `torch.save`: nested dicts and lists with a `TorchTensor` for every tensor.

    Raises:
        UserError: no such file, cut short, no file of this kind, or a pickle that asks for anything but tensors.
    """
    try:
        with path.open("rb") as stream:
            start = stream.read(4)
            stream.seek(0)
            if start == ZIP_START:
                return _read_zip(path)
            if start.startswith(PICKLE_START):
                return _read_legacy(path, stream)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except _Forbidden as error:
        raise UserError(
            f"{path}: asks for {error} while loading; a file of weights needs only tensors and dicts, so reading ended there "
            "and nothing in it was run: if you trust it, save its state dict alone with PyTorch"
        ) from None
    except (zipfile.BadZipFile, EOFError, KeyError, pickle.UnpicklingError, ValueError) as error:
        raise UserError(f"{path}: damaged or cut short ({_text(error)}); fetch it again") from error
    except Exception as error:  # a hostile stream of opcodes can fail in any way
        raise UserError(f"{path}: not readable as a file of torch.save ({type(error).__name__}: {_text(error)})") from error
    raise UserError(f"{path}: neither a safetensors file nor one of torch.save; it starts with {start!r}")


def _text(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _read_zip(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        program = next((name for name in names if name.split("/")[-1] == "data.pkl"), None)
        if program is None:
            raise ValueError("the archive has no data.pkl")
        folder = program.removesuffix("data.pkl")
        order = f"{folder}byteorder"
        if order in names and archive.read(order).strip() != b"little":
            raise ValueError("its numbers are big-endian")
        sizes = {info.filename: info.file_size for info in archive.infolist()}

        def find_storage(key: str, dtype: np.dtype, numel: int) -> Storage:
            entry = f"{folder}data/{key}"
            if entry not in sizes:
                raise ValueError(f"the archive lacks {entry}")
            if sizes[entry] != numel * dtype.itemsize:
                raise ValueError(f"{entry} has {sizes[entry]} bytes, {numel * dtype.itemsize} expected")
            return Storage(dtype, numel, functools.partial(_read_entry, path, entry))

        with archive.open(program) as stream:
            return _Reader(stream, find_storage).load()


def _read_entry(path: Path, entry: str) -> bytes:
    with zipfile.ZipFile(path) as archive:
        return archive.read(entry)


def _read_legacy(path: Path, stream: BinaryIO) -> Any:
    """magic, protocol, system facts, the object, the keys of its storages, then each storage's length and bytes."""
    storages: dict[str, Storage] = {}
    size = path.stat().st_size

    def find_storage(key: str, dtype: np.dtype, numel: int) -> Storage:
        storage = storages.setdefault(key, Storage(dtype, numel))
        if storage.dtype != dtype or storage.numel != numel:
            raise ValueError(f"storage {key} is described in two ways")
        return storage

    def load() -> Any:
        return _Reader(stream, find_storage).load()

    if load() != LEGACY_MAGIC:
        raise ValueError("a pickle, but not one of torch.save")
    if load() != LEGACY_PROTOCOL:
        raise ValueError("an unknown version of torch.save")
    load()  # system facts: every machine PyTorch runs on today is little-endian
    content, keys = load(), load()
    if not isinstance(keys, list):
        raise ValueError("the list of storages is missing")
    for key in keys:
        storage = storages.get(str(key))
        header = stream.read(8)
        if storage is None or len(header) != 8 or int.from_bytes(header, "little", signed=True) != storage.numel:
            raise ValueError(f"storage {key} is missing or has another size than announced")
        start, length = stream.tell(), storage.numel * storage.dtype.itemsize
        if start + length > size:
            raise ValueError(f"the file ends inside storage {key}")
        storage.read = functools.partial(_read_bytes, path, start, length)
        stream.seek(start + length)
    return content


def _read_bytes(path: Path, start: int, length: int) -> bytes:
    with path.open("rb") as stream:
        stream.seek(start)
        return stream.read(length)
