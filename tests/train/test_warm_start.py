"""Starting from one or several checkpoints: what comes from where, and what is refused."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from snp_jax.errors import UserError
from snp_jax.models import backend
from snp_jax.train import sharding
from snp_jax.train.checkpoints import load_arrays, save_params
from snp_jax.train.state import create_params
from snp_jax.train.warm_start import choose_origins, warm_start

HEAD = ("answer/",)


def tree(value, **shapes):
    return {part: {"kernel": np.full(shape, value, np.float32)} for part, shape in shapes.items()}


@pytest.fixture
def sources(tmp_path):
    """A text model, a visual encoder, and a whole run with an answer head."""
    save_params(tmp_path / "text", tree(1, encoder=(4, 8), pooler=(8, 8)))
    save_params(tmp_path / "eyes", tree(2, visual=(3, 8)))
    save_params(tmp_path / "run", tree(3, encoder=(4, 8), pooler=(8, 8), cross_pooler=(8, 8), visual=(3, 8), answer=(5,)))
    return tmp_path


def started(paths, **shapes):
    """The mean of every part, and the report; parts that are made anew are zeros."""
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), tree(0, **shapes))
    loaded, report = warm_start(paths, abstract, lambda parts: tree(0, **{part: shapes[part] for part in parts}), fresh=HEAD)
    assert jax.tree.map(jnp.shape, loaded) == jax.tree.map(jnp.shape, abstract)
    return {part: float(leaf["kernel"].mean()) for part, leaf in loaded.items()}, report


def test_parts_of_several_sources(sources):
    paths = [sources / "text", sources / "eyes"]
    values, report = started(paths, encoder=(4, 8), pooler=(8, 8), cross_pooler=(8, 8), visual=(3, 8), match=(8,))
    assert values == {"encoder": 1, "pooler": 1, "cross_pooler": 1, "visual": 2, "match": 0}
    assert report.splitlines() == [
        f"from {sources / 'text'}: encoder, pooler",
        f"from {sources / 'eyes'}: visual",
        "cross_pooler: a copy of pooler",
        "fresh: match",
    ]


def test_the_first_source_that_has_a_part_gives_it(sources):
    paths = [sources / "eyes", sources / "run"]
    values, report = started(paths, encoder=(4, 8), pooler=(8, 8), cross_pooler=(8, 8), visual=(3, 8), answer=(7,))
    assert values == {"encoder": 3, "pooler": 3, "cross_pooler": 3, "visual": 2, "answer": 0}
    assert "not used: answer, visual" in report and "fresh: answer" in report


def test_what_does_not_fit_is_named(sources):
    with pytest.raises(UserError, match=r"text is of another model: parameter encoder/kernel is \(4, 8\) there and \(4, 9\)"):
        started([sources / "text"], encoder=(4, 9), pooler=(8, 8))
    with pytest.raises(UserError, match="eyes gives nothing that the model has"):
        started([sources / "text", sources / "eyes"], encoder=(4, 8), pooler=(8, 8))
    wanted = {"encoder/layer0/kernel": (2,), "encoder/layer1/kernel": (2,)}
    with pytest.raises(UserError, match="1 parameters of 'encoder' are missing from it, for example encoder/layer1/kernel"):
        choose_origins({"old": {"encoder/layer0/kernel": (2,)}}, wanted, fresh=HEAD)
    with pytest.raises(UserError, match="1 parameters of 'encoder' are only in it, for example encoder/layer2/kernel"):
        choose_origins({"old": {**wanted, "encoder/layer2/kernel": (2,)}}, wanted, fresh=HEAD)
    with pytest.raises(UserError, match="no checkpoint found at .*nowhere"):
        started([sources / "nowhere"], encoder=(4, 8))


def test_parameters_arrive_where_they_will_live(sources, recwarn):
    mesh = sharding.make_mesh(sharding.MeshOptions(data=2, fsdp=4))
    split = NamedSharding(mesh, P(None, "fsdp"))
    abstract = {"encoder": {"kernel": jax.ShapeDtypeStruct((4, 8), jnp.float32, sharding=split)}}
    loaded, _ = warm_start([sources / "run"], abstract, lambda parts: {}, fresh=HEAD)
    assert loaded["encoder"]["kernel"].sharding == split
    np.testing.assert_array_equal(loaded["encoder"]["kernel"], np.full((4, 8), 3.0))
    assert not [warning for warning in recwarn if "harding" in str(warning.message)]


def test_fresh_parts_are_made_by_one_pass_through_the_initialisers():
    calls = []

    def init():
        calls.append(1)
        return {part: {"kernel": jnp.full((2, 8), value)} for value, part in enumerate(("encoder", "visual", "match"))}

    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), jax.eval_shape(init))
    calls.clear()
    made = create_params(init, abstract)
    assert len(calls) == 1 and [float(part["kernel"].mean()) for part in made.values()] == [0, 2, 1]  # by name
    assert create_params(init, abstract, ["match"]).keys() == {"match"}
    assert create_params(init, abstract, []) == {} and len(calls) == 2


def test_fresh_parameters_are_made_on_the_host_and_placed():
    split = NamedSharding(jax.sharding.Mesh(np.array(jax.devices()).reshape(2, 4), ("data", "fsdp")), P("fsdp"))
    traced_for = []

    def init():
        traced_for.append(backend.for_cpu())
        return {"kernel": jax.random.normal(jax.random.key(0), (8, 3))}

    abstract = {"kernel": jax.ShapeDtypeStruct((8, 3), jnp.float32, sharding=split)}
    with backend.lower_for("tpu"):  # as on a TPU, for which this program is not
        made = create_params(init, abstract)["kernel"]
    assert traced_for == [True] and made.sharding == split
    np.testing.assert_array_equal(made, init()["kernel"])


def test_fresh_parameters_without_a_cpu_among_the_platforms(monkeypatch):
    local = jax.local_devices

    def devices(*args, backend=None):
        if backend == "cpu":
            raise RuntimeError("Unknown backend cpu")
        return local(*args, backend=backend)

    monkeypatch.setattr(jax, "local_devices", devices)
    place = jax.sharding.SingleDeviceSharding(local()[3])
    abstract = {"bias": jax.ShapeDtypeStruct((4,), jnp.float32, sharding=place)}
    made = create_params(lambda: {"bias": jnp.arange(4.0)}, abstract)["bias"]
    assert made.sharding == place and made.tolist() == [0, 1, 2, 3]


def test_load_arrays_needs_no_model(sources):
    arrays = load_arrays(sources / "eyes")
    assert isinstance(arrays["visual"]["kernel"], np.ndarray)
    np.testing.assert_array_equal(arrays["visual"]["kernel"], np.full((3, 8), 2.0))
