"""Training runs end to end: what a run leaves behind, going on after any kind of stop, and refusals in one sentence."""

from __future__ import annotations

import gzip
import json
import shutil
import signal
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from snp_jax.errors import UserError
from snp_jax.train import loop
from snp_jax.train.config import load_config, parse_config
from snp_jax.train.metrics import read_metrics
from snp_jax.train.profiling import Profiler, ProfileSteps
from snp_jax.train.restore import open_run


def assert_same_params(workdir, other):
    first, second = open_run(workdir), open_run(other)
    assert first.step == second.step
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6), first.params, second.params)


def test_a_run_leaves_everything_behind(pretrained, tiny_config):
    assert len(jax.devices()) == 8
    assert (pretrained / "DONE").read_text() == "4\n"
    assert load_config(pretrained / "config.json").to_dict() == json.loads(json.dumps(tiny_config("pretrain").to_dict()))
    assert list((pretrained / "tensorboard").glob("events.*"))
    assert sorted(path.name for path in (pretrained / "checkpoints").iterdir()) == ["2", "4"]
    lines = read_metrics(pretrained / "metrics.jsonl")
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    for line in lines:
        terms = [line[name] for name in ("mlm_text", "mlm_cross", "gvtm_stage1", "gvtm_stage2", "lvwm")]
        assert line["loss"] == pytest.approx(sum(terms), rel=1e-4)
        assert np.isfinite(line["gradient_norm"]) and line["gradient_norm"] > 0
    # The first warm-up rates: factors 0.1, 0.55, 1.
    assert [line["learning_rate"] for line in lines] == pytest.approx([1e-4, 5.5e-4, 1e-3, 1e-3])
    # Two rounds of 16 videos: the three broken ones were met, masked, counted once and named.
    assert lines[-1]["broken_videos"] == 3 and lines[-1]["broken"] == {"no_video_stream": 1, "open": 2}
    assert set(lines[-1]["broken_names"]) == {"empty", "text", "sound"}


def signalled_in_second_step(*arguments, make=loop.make_train_step, **options):
    """`make_train_step` whose step receives SIGTERM the second time it is called."""
    step, calls = make(*arguments, **options), iter(range(100))

    def wrapped(state, batch):
        if next(calls) == 1:
            signal.raise_signal(signal.SIGTERM)
        return step(state, batch)

    return wrapped


@pytest.mark.parametrize("how", ["steps", pytest.param("signal", marks=pytest.mark.slow)])
def test_an_interrupted_run_ends_like_an_uninterrupted_one(how, pretrained, tiny_config, tmp_path, monkeypatch):
    if how == "steps":
        assert loop.run(tiny_config("pretrain", steps=2), tmp_path)
        (tmp_path / "metrics.jsonl").open("a").write('{"step": 3, "loss": 0.0}\n{"step": 4, "lo')  # killed later
    else:
        with monkeypatch.context() as patch:
            patch.setattr(loop, "make_train_step", signalled_in_second_step)
            assert not loop.run(tiny_config("pretrain"), tmp_path)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        assert not (tmp_path / "DONE").exists()
    assert open_run(tmp_path).step == 2
    assert loop.run(tiny_config("pretrain"), tmp_path)
    assert_same_params(tmp_path, pretrained)
    resumed, straight = (read_metrics(path / "metrics.jsonl") for path in (tmp_path, pretrained))
    assert [line["step"] for line in resumed] == [1, 2, 3, 4]
    assert [line["loss"] for line in resumed] == pytest.approx([line["loss"] for line in straight], rel=1e-5)


def test_a_profile_of_some_steps(tmp_path):
    profiler, step, state = Profiler(tmp_path, ProfileSteps(1, 2)), jax.jit(lambda x: x + 1), jnp.zeros(3)
    for number in range(3):
        profiler.before(number, state)
        state = step(state)
    profiler.close()
    (trace,) = (tmp_path / "profile" / "plugins" / "profile").iterdir()
    assert list(trace.glob("*.xplane.pb"))  # TensorBoard's
    events = json.loads(gzip.decompress((trace / "perfetto_trace.json.gz").read_bytes()))["traceEvents"]
    assert any("PjitFunction" in event.get("name", "") for event in events)


def test_a_signal_in_the_last_step_leaves_a_finished_run(pretrained, tiny_config, tmp_path, monkeypatch):
    """And the run calls the profiler for the steps it is asked for; left out itself: eight devices fill its files for 30 s."""
    workdir, traces = shutil.copytree(pretrained, tmp_path / "run"), []
    (workdir / "DONE").unlink()
    shutil.rmtree(workdir / "checkpoints" / "4")
    monkeypatch.setattr(loop, "make_train_step", signalled_in_second_step)
    monkeypatch.setattr(jax.profiler, "start_trace", lambda directory, **_: traces.append(directory))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: traces.append("stop"))
    assert loop.run(tiny_config("pretrain"), workdir, ProfileSteps(3, 4))
    assert (workdir / "DONE").exists()
    assert traces == [workdir / "profile", "stop"]


def test_a_working_directory_belongs_to_one_config(pretrained, tiny_config):
    config = tiny_config("pretrain")
    config.optim.weight_decay = 0.5
    with pytest.raises(UserError, match=r"holds a run with another config.optim.weight_decay \(0.001 there, 0.5 now\)"):
        loop.run(config, pretrained)


def change_saved_config(workdir, change):
    config = json.loads((workdir / "config.json").read_text())
    change(config)
    (workdir / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda config: config["model"]["visual"].pop("kind"), "config.json: config.model.visual has no key 'kind'.*version"),
        (
            lambda config: config["model"].pop("cross_layers"),
            "written by another version of snp-jax: .* the key 'cross_layers';",
        ),
        (lambda config: config["model"]["bert"].update(old=1), "written by another version of snp-jax: .* the key 'old';"),
    ],
)
def test_a_run_of_another_version_says_which_key_differs(change, message, pretrained, tiny_config, tmp_path):
    workdir = shutil.copytree(pretrained, tmp_path / "run")
    change_saved_config(workdir, change)
    with pytest.raises(UserError, match=message) as caught:
        open_run(workdir)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"config.model\..*(not in its config.json there|no such key now)"):
        loop.run(tiny_config("pretrain"), workdir)


@pytest.mark.parametrize("text", ["10", "10:", "15:10", "a:b", "10:10", "-1:5"])
def test_profile_steps_that_are_none(text):
    assert ProfileSteps.parse("10:15") == ProfileSteps(10, 15)
    with pytest.raises(UserError, match="write FIRST:END"):
        ProfileSteps.parse(text)


def test_a_mistake_before_the_first_checkpoint_can_be_put_right(tiny_config, text_files, tmp_path):
    """The working directory of a run that never saved keeps nothing of the mistake."""
    config = tiny_config("pretrain")
    other = tmp_path / "vocab.txt"
    other.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "dog"]) + "\n")
    config.text.tokenizer = str(other)
    with pytest.raises(UserError, match="none of the mined words"):
        loop.run(config, tmp_path / "run")
    config = tiny_config("pretrain", init_from=str(tmp_path / "nothing"))
    with pytest.raises(UserError, match="no checkpoint found at .*nothing"):
        loop.run(config, tmp_path / "run")
    assert (tmp_path / "run" / "tokenizer.txt").read_bytes() == Path(text_files["tokenizer"]).read_bytes()
    config.train.init_from = ""
    config.dataset.max_broken_share = 0.05
    with pytest.raises(UserError, match="of the first 16 videos cannot be decoded"):
        loop.run(config, tmp_path / "run")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("task", "captioning", "config.task='captioning' is not a task: choose one of tagging"),
        ("batch_size", 12, "config.batch_size=12 is not a multiple of the 8 devices"),
        ("mesh.data", 3, "config.mesh: data=3 x fsdp=1 x model=1 does not give the 8 devices"),
        ("mesh.fsdp", 3, "config.mesh: data=-1 x fsdp=3 x model=1 does not give the 8 devices"),
        ("dataset.path", None, "config.dataset.path is not set: add --config.dataset.path=<path>"),
        ("dataset.path", "nowhere", "nowhere"),
        ("dataset.train_split", "trian", "trian"),
        ("text.tokenizer", None, "config.text.tokenizer is not set"),
        ("text.tokenizer", "nowhere.txt", "nowhere.txt: cannot read the tokeniser"),
        ("text.words", None, "config.text.words is not set"),
        ("text.words", "nowhere.json", "nowhere.json: cannot read the significant words"),
        ("text.max_len", 17, "config.text.max_len=17 exceeds config.model.bert.max_positions=16"),
        ("objective.matching.negatives", 8, "negatives=8 must be below config.batch_size=8"),
        ("objective.matching.anchor", "first", "config.objective.matching.anchor='first': choose"),
        ("objective.masking.kind", "all", "config.objective.masking.kind='all': choose"),
        ("objective.lvwm", "never", "config.objective.lvwm='never': choose"),
        ("objective.matching_caption", "none", "config.objective.matching_caption='none': choose"),
        ("model.bert.heads", 3, "config.model.bert: BERT width 16 is not a multiple of its 3 heads"),
        ("model.visual.heads", (3, 3, 3, 3), "config.model.visual: .*8 channels of stage 1"),
        ("model.dtype", "float33", "config.model.dtype='float33': choose"),
    ],
)
def test_refusals(key, value, message, tiny_config, tmp_path):
    config = tiny_config("pretrain")
    config.update_from_flattened_dict({key: value})
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        loop.run(config, tmp_path)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--config.optim.learning_rat=1", "learning_rate"),
        ("--config.train.steps=many", "many"),
        ("--confg.seed=1", "confg"),
        ("seed", "unknown argument 'seed'"),
    ],
)
def test_refused_overrides(override, message):
    with pytest.raises(UserError, match=message) as caught:
        parse_config("configs/toy/pretrain.py", [override])
    assert "\n" not in str(caught.value)


def test_config_file_and_overrides():
    config = parse_config("configs/toy/pretrain.py:quick", ["--config.optim.milestones=(3, 5)", "--config.seed=7"])
    assert (config.train.steps, config.optim.milestones, config.seed) == (20, (3, 5), 7)
    with pytest.raises(UserError, match="config file nowhere.py does not exist"):
        parse_config("nowhere.py", [])
