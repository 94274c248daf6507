"""Runs every golden case of a folder and reports one line a case."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import jax

from snp_jax.errors import UserError
from snp_jax.parity import encoders, inputs, losses, metrics, steps, training
from snp_jax.parity.compare import KINDS, Account, Check
from snp_jax.parity.golden import Golden, find_goldens, load_golden

CASES: tuple[tuple[str, Callable[[Golden, Account], None]], ...] = (
    ("bert", encoders.bert_case),
    ("pvt", encoders.pvt_case),
    ("swin", encoders.swin_case),
    ("resnet", encoders.resnet_case),
    ("cross_encoder", encoders.cross_case),
    ("milnce", losses.mil_nce_case),
    ("vwm", losses.word_matching_case),
    ("retrieval", steps.retrieval_case),
    ("classification", steps.answering_case),
    ("multichoice", steps.answering_case),
    ("pretrain", steps.pretrain_case),
    ("optimizer", training.optimizer_case),
    ("param_groups", training.parameter_groups_case),
    ("lr_schedule", training.schedule_case),
    ("metrics", metrics.metrics_case),
    ("collate_mask", inputs.padding_case),
    ("resize_normalize", inputs.resize_case),
    ("frame_sampling", inputs.frame_sampling_case),
    ("s3_masking", inputs.significant_masking_case),
)
"""How cases are told apart: the first entry that a case's name starts with."""


PLURALS = {"output": "outputs", "loss": "losses", "gradient": "gradients"}


@dataclasses.dataclass(frozen=True)
class Result:
    """One case.

    Attributes:
        name: the case's.
        checks: what was compared.
        waived: recorded arrays that were left out, with the reason.
        error: why nothing could be compared; "" if it could.
    """

    name: str
    checks: list[Check]
    waived: dict[str, str]
    error: str = ""

    @property
    def passed(self) -> bool:
        """Whether everything was compared and within tolerance."""
        return not self.error and all(check.passed for check in self.checks)


def run_folder(folder: Path) -> Iterator[Result]:
    """Runs the cases of a folder, in the order of their names."""
    jax.config.update("jax_disable_most_optimizations", True)  # compiling is most of the time of such tiny models
    for file in find_goldens(folder):
        yield run_case(file)


def run_case(file: Path) -> Result:
    """Runs one case; whatever goes wrong in it is its result."""
    account = None
    try:
        golden = load_golden(file)
        case = next((run for start, run in CASES if golden.name.startswith(start)), None)
        if case is None:
            return Result(golden.name, [], {}, "no such kind of case is known here")
        account = Account(golden)
        with jax.default_matmul_precision("highest"):
            case(golden, account)
        account.close()
        return Result(golden.name, account.checks, account.waived)
    except UserError as error:
        return Result(file.stem, account.checks if account else [], {}, str(error))
    except Exception as error:  # one case must not end the others
        text = " ".join(str(error).split())
        return Result(file.stem, account.checks if account else [], {}, f"{type(error).__name__}: {text}")


def format_result(result: Result) -> str:
    """One line: name, verdict, and for outputs, losses and gradients the largest absolute (relative) error."""
    parts = [f"{result.name:26} {'pass' if result.passed else 'FAIL'}"]
    for kind in KINDS:
        checks = [check for check in result.checks if check.kind == kind]
        if checks:
            absolute, relative = (max(getattr(check, of) for check in checks) for of in ("absolute", "relative"))
            parts.append(f"{PLURALS[kind]} {absolute:.1e} ({relative:.1e})")
    if result.error:
        parts.append(result.error)
    elif not result.passed:
        failed = [check for check in result.checks if not check.passed]
        parts.append(f"{len(failed)} of {len(result.checks)} failed, first {failed[0].name}: {failed[0].note}")
    return "  ".join(parts)


def to_json(results: list[Result]) -> str:
    """Every comparison of every case."""
    cases = [{**dataclasses.asdict(result), "passed": result.passed} for result in results]
    content = {"passed": sum(result.passed for result in results), "failed": sum(not result.passed for result in results)}
    return json.dumps(_plain({**content, "device": jax.devices()[0].device_kind, "cases": cases}), indent=1) + "\n"


def _plain(value):
    """JSON has no infinity: written as a string."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return str(value) if isinstance(value, float) and abs(value) == float("inf") else value
