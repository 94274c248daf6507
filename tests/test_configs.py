"""Every experiment's config parses, is locked, and has a quick variant of itself."""

from pathlib import Path

import pytest

from snp_jax.train import build
from snp_jax.train.config import parse_config

ROOT = Path(__file__).parent.parent
EXPERIMENTS = sorted(
    path.relative_to(ROOT) for path in ROOT.glob("configs/*/*.py") if path.name not in ("__init__.py", "common.py")
)


@pytest.mark.parametrize("path", EXPERIMENTS, ids=str)
def test_config_parses_and_quick_differs_in_length_alone(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    config, quick = parse_config(str(path), []), parse_config(f"{path}:quick", [])
    assert config.is_locked
    assert build.check_task(config) == config.task
    assert all(milestone < config.train.steps for milestone in build.build_optim(config).milestones)
    assert quick.train.steps < config.train.steps or config.train.steps == 0  # evaluation alone
    with quick.unlocked():
        quick.train.steps = config.train.steps
    assert quick.to_dict() == config.to_dict()


def test_overrides_keep_their_type(monkeypatch):
    monkeypatch.chdir(ROOT)
    config = parse_config(str(EXPERIMENTS[0]), ["--config.optim.learning_rate=1e-4", "--config.optim.milestones=(3,4)"])
    assert config.optim.learning_rate == 1e-4
    assert tuple(config.optim.milestones) == (3, 4)
