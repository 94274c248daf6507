"""The account of a case: wrong numbers, forgotten arrays, unknown cases and damaged files never pass."""

from __future__ import annotations

import json

import numpy as np
import pytest

from snp_jax.errors import UserError
from snp_jax.parity import run
from snp_jax.parity.compare import Account
from snp_jax.parity.golden import Golden, find_goldens, load_golden

ARRAYS = {
    "out/x": np.array([0.0, -2.0, 1.0]), "out/loss": np.float64(3.0), "grad/big": np.array([100.0, 1.0]),
    "grad/noise": np.array([1e-9]),
}  # fmt: skip


@pytest.fixture
def account():
    return Account(Golden("case", {}, ARRAYS))


def only(account):
    (check,) = account.checks
    return check


@pytest.mark.parametrize(("error", "passed"), [(1.9e-4, True), (2.1e-4, False), (np.nan, False), (np.inf, False)])
def test_outputs_are_compared_with_the_largest_magnitude(account, error, passed):
    account.output("out/x", ARRAYS["out/x"] + np.array([error, 0, 0]))
    check = only(account)
    assert check.passed == passed and check.kind == "output"
    if np.isfinite(error):
        assert check.absolute == pytest.approx(error) and check.relative == pytest.approx(error / 2)


def test_losses_and_shapes(account):
    account.loss("out/loss", 3.0 + 2.9e-4)
    account.output("out/x", np.zeros(2))
    assert [check.passed for check in account.checks] == [True, False]
    assert account.checks[1].note == "shape (2,), recorded (3,)"


def test_a_gradient_that_is_zero_but_for_rounding(account):
    """It counts as a thousandth of the largest one."""
    account.gradient("grad/noise", np.array([9e-5]))
    account.gradient("grad/noise", np.array([2e-4]))
    account.gradient("grad/big", np.array([100.0, 1.09]))
    assert [check.passed for check in account.checks] == [True, False, True]


def test_what_is_forgotten_fails(account):
    account.output("out/x", ARRAYS["out/x"])
    account.waive("grad/noise", "not wanted")
    account.close()
    assert {check.name for check in account.checks if not check.passed} == {"out/loss", "grad/big"}
    empty = Account(Golden("case", {}, {}))
    empty.close()
    assert not only(empty).passed


def test_exact_values(account):
    account.exact("out/x", [0, -2, 1])
    account.exact("count", 3, 4)
    account.exact("shape", [1, 2], [1])
    account.rule("rule", False, "why not")
    assert [check.passed for check in account.checks] == [True, False, False, False]
    assert account.checks[1].note == "1 values differ" and account.checks[3].note == "why not"


# ---------------------------------------------------------------------- files
def write(folder, name, arrays=None, **facts):
    listed = [{"name": key, "shape": list(array.shape)} for key, array in (arrays or {}).items()]
    (folder / f"{name}.json").write_text(json.dumps(facts | ({"arrays": listed} if listed else {})))
    if arrays:
        np.savez(folder / f"{name}.npz", **arrays)
    return folder / f"{name}.json"


def test_an_unknown_kind_is_a_failure(tmp_path):
    result = run.run_case(write(tmp_path, "something_new"))
    assert not result.passed and result.error == "no such kind of case is known here"
    assert "FAIL" in run.format_result(result)
    assert json.loads(run.to_json([result]))["failed"] == 1


def test_damaged_cases_are_failures(tmp_path):
    arrays = {"in/sim_0": np.zeros((2, 2))}
    file = write(tmp_path, "milnce", arrays, config={"cases": []})
    assert "nothing was compared" in run.format_result(run.run_case(file))
    assert load_golden(file).group("in/").keys() == {"sim_0"}
    file.with_suffix(".npz").write_bytes(b"PK\x03\x04 cut")
    assert "milnce.npz: cannot be read" in run.run_case(file).error
    file.with_suffix(".npz").unlink()
    assert "cannot be read" in run.run_case(file).error
    assert "KeyError" in run.run_case(write(tmp_path, "vwm")).error
    (tmp_path / "bert.json").write_text("{")
    assert "bert.json: cannot be read" in run.run_case(tmp_path / "bert.json").error
    np.savez(tmp_path / "pvt.npz", x=np.zeros(3))
    (tmp_path / "pvt.json").write_text(json.dumps({"arrays": [{"name": "x", "shape": [4]}]}))
    with pytest.raises(UserError, match=r"x should have shape \(4,\), found \(3,\)"):
        load_golden(tmp_path / "pvt.json")
    with pytest.raises(UserError, match="no golden case there"):
        find_goldens(tmp_path / "nowhere")


def test_wrong_numbers_fail(tmp_path):
    """The loss of MIL-NCE at equal scores is log(2 B - 1)."""
    scores = np.zeros((3, 3), np.float32)
    for loss, passed in ((np.log(5.0), True), (np.log(6.0), False)):
        arrays = {"in/sim_0": scores, "in/weight_0": np.ones(3, np.float32)}
        arrays |= {f"out/loss{suffix}_0": np.float32(loss) for suffix in ("", "_weighted")}
        own = np.eye(3, dtype=bool)
        gradient = np.where(own, 1 / 5 - 1, 2 / 5) / 3
        arrays |= {f"out/grad_sim{suffix}_0": gradient.astype(np.float32) for suffix in ("", "_weighted")}
        result = run.run_case(write(tmp_path, "milnce", arrays, config={"cases": [{"batch": 3, "n_pair": 1}]}))
        assert result.passed == passed, run.format_result(result)
