"""Who may import whom, read from the source."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / "snp_jax").rglob("*.py"))
NAMES = [str(file.relative_to(ROOT)) for file in FILES]
MAY_IMPORT = {  # package -> packages of ours; errors may be imported by all
    "models": {"models"},
    "objectives": {"objectives"},
    "data": {"data"},
    "convert": {"convert", "models"},
    "train": {"train", "data", "models", "objectives", "convert"},
    "eval": {"eval", "train", "data", "models"},
    "aot": {"aot", "eval", "train", "data", "models"},
    "parity": {"parity", "convert", "data", "eval", "models", "objectives", "train"},
}
ONLY = {  # library -> the files that may import it
    "orbax": {"snp_jax/train/checkpoints.py"},
    "spacy": {"snp_jax/data/words_mining.py"},
    "safetensors": {"snp_jax/convert/files.py"},
    "pickle": {
        "snp_jax/convert/torch_file.py",  # this and the next with unpicklers that can run nothing
        "snp_jax/data/sources/layout.py",
        "snp_jax/data/sources/planning.py",  # its own temporary file
    },
    "torch": set(),
    "tensorflow": set(),
    "tools": set(),
    "tests": set(),
    "configs": set(),
}
JAX_IN_DATA = {f"snp_jax/data/{name}.py" for name in ("augment", "rand_augment", "release", "stream")}
JIT = {
    "snp_jax/train/step.py",
    "snp_jax/train/state.py",
    "snp_jax/eval/scoring.py",
    "snp_jax/parity/networks.py",
    "snp_jax/aot/export.py",
    "snp_jax/aot/kernels.py",
}


def imports(name, *, module_level=False):
    """Dotted names of the modules a file imports (`from a import b` counts as a.b)."""
    tree = ast.parse((ROOT / name).read_text())
    for node in tree.body if module_level else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("name", NAMES)
def test_imports(name):
    package = name.split("/")[1]
    for module in imports(name):
        parts = module.split(".")
        if parts[0] == "snp_jax" and package in MAY_IMPORT:
            assert parts[1] in MAY_IMPORT[package] | {"errors", "xla_flags", "host_memory"}, f"{name} imports {module}"
        assert name in ONLY.get(parts[0], {name}), f"{name} imports {module}"
    if package == "data" and name not in JAX_IN_DATA:
        assert not any(module.split(".")[0] in ("jax", "flax") for module in imports(name, module_level=True))


@pytest.mark.parametrize("name", NAMES)
def test_size_and_jit(name):
    source = (ROOT / name).read_text()
    assert source.count("\n") <= 400
    used = {ast.unparse(node) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute)}
    assert "jax.jit" not in used or name in JIT
    assert "jax.jit" not in set(imports(name))
