"""Files of `torch.save`: both layouts are read, damaged and hostile ones are refused, and nothing in them is run."""

from __future__ import annotations

import io
import os
import pickle
import zipfile

import numpy as np
import pytest

from snp_jax.convert.files import read_state, write_state
from snp_jax.errors import UserError


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def archive(path, program, **entries):
    """A zip archive of torch.save around a pickle."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", program)
        file.writestr("archive/byteorder", "little")
        for key, data in entries.items():
            file.writestr(f"archive/data/{key.lstrip('_')}", data)
    return path


def tensor_program(numel=6, offset=0, shape=(2, 3), strides=(3, 1), rebuild=b"_rebuild_tensor_v2"):
    """{"w": tensor} in pickle opcodes, written by hand: PyTorch is not needed for it."""
    storage = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu" + integer(numel) + b"tQ"
    numbers = integer(offset) + group(shape) + group(strides)
    tail = b"\x89}t" + b"R"
    return b"\x80\x02}X\x01\x00\x00\x00wctorch._utils\n" + rebuild + b"\n(" + storage + numbers + tail + b"s."


def integer(value):
    return b"J" + value.to_bytes(4, "little", signed=True)


def group(values):
    return b"(" + b"".join(map(integer, values)) + b"t"


NUMBERS = np.arange(6, dtype=np.float32)


def test_a_tensor_without_pytorch(tmp_path):
    path = archive(tmp_path / "a.pth", tensor_program(), _0=NUMBERS.tobytes())
    np.testing.assert_array_equal(read_state(path)["w"], NUMBERS.reshape(2, 3))
    path = archive(tmp_path / "t.pth", tensor_program(shape=(3, 2), strides=(1, 3)), _0=NUMBERS.tobytes())
    np.testing.assert_array_equal(read_state(path)["w"], NUMBERS.reshape(2, 3).T)


@pytest.mark.parametrize(
    ("program", "data", "message"),
    [
        (tensor_program(numel=7), NUMBERS, "24 bytes, 28 expected"),
        (tensor_program(shape=(3, 3)), NUMBERS, "reaches outside its storage"),
        (tensor_program(offset=1), NUMBERS, "reaches outside its storage"),
        (tensor_program(offset=-1), NUMBERS, "negative"),
        (tensor_program(strides=(3,)), NUMBERS, "negative size|damaged"),
        (tensor_program(rebuild=b"_rebuild_sparse_tensor"), NUMBERS, r"asks for torch\._utils\._rebuild_sparse_tensor"),
        (tensor_program()[:-20], NUMBERS, "damaged or cut short"),
        (b"\x80\x02K\x01.", NUMBERS, "holds a int, expected a state dict"),
        (b"\x80\x02}.", NUMBERS, "holds no named tensors"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(program, data, message, tmp_path):
    with pytest.raises(UserError, match=message):
        read_state(archive(tmp_path / "a.pth", program, _0=data.tobytes()))


@pytest.mark.parametrize("layout", ["zip", "plain"])
@pytest.mark.parametrize(
    "call",
    [
        (os.system, "touch {}"),
        (eval, "open({!r}, 'w')"),
        (__import__, "os"),
        (open, "{}", "w"),
    ],
    ids=lambda call: call[0].__name__,
)
def test_code_in_a_pickle_is_not_run(layout, call, tmp_path):
    trace = tmp_path / "trace"
    function, *arguments = call
    arguments = [text.format(str(trace)) for text in arguments]
    program = pickle.dumps({"w": Call(function, *arguments)}, protocol=2)
    path = tmp_path / "evil.pth"
    if layout == "zip":
        archive(path, program)
    else:
        path.write_bytes(pickle.dumps(0x1950A86A20F9469CFC6C) + pickle.dumps(1001) + pickle.dumps({}) + program)
    with pytest.raises(UserError, match=r"evil.pth: asks for \w+\.\w+ while loading; .* nothing in it was run"):
        read_state(path)
    assert not trace.exists()


def test_the_reader_itself_cannot_be_changed(tmp_path):
    rebuild = b"ctorch._utils\n_rebuild_tensor_v2\n"
    program = b"\x80\x02" + rebuild + b"}X\x01\x00\x00\x00aK\x01sb."  # BUILD: set attributes on what a name stands for
    with pytest.raises(UserError, match="damaged"):
        read_state(archive(tmp_path / "a.pth", program))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "neither a safetensors file nor one of torch.save"),
        (b"hello", "neither a safetensors file nor one of torch.save"),
        (b"PK\x03\x04 and no more", "damaged or cut short"),
        (pickle.dumps({"a": 1}), "not one of torch.save"),
        (b"\x10\x00\x00\x00\x00\x00\x00\x00{}", "damaged or cut short"),
    ],
)
def test_other_files_are_refused(content, message, tmp_path):
    (tmp_path / "model.bin").write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_state(tmp_path / "model.bin")


def test_files_and_folders(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        read_state(tmp_path / "nothing")
    with pytest.raises(UserError, match="a folder with neither model.safetensors nor pytorch_model.bin"):
        read_state(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(UserError, match="split over several files"):
        read_state(tmp_path)
    state = {"a": np.arange(3, dtype=np.float32), "b": np.ones((2, 2), np.int64).T}
    write_state(tmp_path / "model.safetensors", state, {"format": "pt"})
    again = read_state(tmp_path)
    assert again.keys() == state.keys()
    assert all(np.array_equal(again[name], state[name]) and again[name].dtype == state[name].dtype for name in state)
    data = (tmp_path / "model.safetensors").read_bytes()
    for length in (9, 40, len(data) - 1):
        (tmp_path / "cut").write_bytes(data[:length])
        with pytest.raises(UserError, match="cut"):
            read_state(tmp_path / "cut")


@pytest.mark.parametrize("layout", ["zip", "plain"])
def test_what_pytorch_writes(layout, tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (pip install '.[parity]')")
    state = {
        "half": torch.randn(3).half(), "brain": torch.randn(3).bfloat16(), "double": torch.randn(2).double(),
        "count": torch.tensor(3), "turned": torch.arange(12).reshape(3, 4).T, "part": torch.randn(10)[2:5],
        "empty": torch.zeros(0, 3), "parameter": torch.nn.Parameter(torch.randn(2)), "flag": torch.tensor([True, False]),
    }  # fmt: skip
    path = tmp_path / "run.ckpt"
    content = {"model": state, "optimizer": {"state": {0: torch.ones(2)}}, "device": torch.device("cpu"), "epoch": 3}
    torch.save(content, path, _use_new_zipfile_serialization=layout == "zip")
    read = read_state(path)
    assert read.keys() == state.keys()
    for name, tensor in state.items():
        wanted = tensor.detach()
        wanted = wanted.float().numpy() if name == "brain" else wanted.numpy()
        assert read[name].shape == wanted.shape
        np.testing.assert_array_equal(read[name].astype(wanted.dtype), wanted)
    data = path.read_bytes()
    for length in (100, len(data) // 2, len(data) - 20):
        path.write_bytes(data[:length])
        with pytest.raises(UserError, match="damaged or cut short"):
            read_state(path)
    buffer = io.BytesIO()
    torch.save({"model": torch.nn.Linear(2, 2)}, buffer)
    path.write_bytes(buffer.getvalue())
    with pytest.raises(UserError, match=r"asks for torch\.nn\.modules\.linear\.Linear"):
        read_state(path)
