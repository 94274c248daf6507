"""Virtual CPU devices never come without the flag that keeps their collectives in order."""

from snp_jax.xla_flags import DEVICES, IN_ORDER, with_collectives_in_order, with_virtual_devices


def test_virtual_devices_have_their_collectives_in_order():
    environment = with_virtual_devices({"XLA_FLAGS": "--xla_dump_to=there", "HOME": "here"}, 4)
    assert environment == {"JAX_PLATFORMS": "cpu", "HOME": "here", "XLA_FLAGS": f"--xla_dump_to=there {DEVICES}=4 {IN_ORDER}"}
    assert with_collectives_in_order(environment) == environment


def test_the_flag_is_added_where_it_matters_and_nobody_decided():
    assert with_collectives_in_order({}) == {}
    assert with_collectives_in_order({"XLA_FLAGS": f"{DEVICES}=8"}) == {"XLA_FLAGS": f"{DEVICES}=8 {IN_ORDER}"}
    decided = {"XLA_FLAGS": f"{DEVICES}=8 {IN_ORDER.replace('false', 'true')}"}
    assert with_collectives_in_order(decided) == decided
