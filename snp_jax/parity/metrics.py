"""Cases of retrieval metrics, by the release's rules for ties."""

from __future__ import annotations

import numpy as np

from snp_jax.eval import metrics
from snp_jax.parity.compare import Account
from snp_jax.parity.golden import Golden

RECALLS = {"r1": "r@1", "r5": "r@5", "r10": "r@10"}


def metrics_case(golden: Golden, account: Account) -> None:
    """Recall over a whole split in both directions, and inside a batch."""
    scores = golden["in/sim"]
    right = {"t2v": _positives(golden["in/t2v"][:, None], scores.shape[1])}
    right["v2t"] = _positives(golden["in/v2t"], scores.shape[0])
    for direction, matrix in (("t2v", scores), ("v2t", scores.T)):
        found = metrics.recall_metrics(matrix, right[direction], ties="index")
        for ours, theirs in RECALLS.items():
            account.output(f"out/{direction}-{theirs}", found[ours] / 100)
        account.output(f"out/{direction}-mean_recall", np.mean([found[ours] for ours in RECALLS]) / 100)
        account.output(f"out/{direction}-mr", found["mdr"])
    in_batch(golden["in/square"], "out/batch_l1_", account)


def in_batch(scores: np.ndarray, prefix: str, account: Account, mark: str = "r_") -> None:
    """Compares in-batch metrics of a square matrix with those recorded below `prefix`."""
    found = metrics.in_batch_metrics(scores)
    names = {f"{prefix}mr": found["mdr"]} | {f"{prefix}{mark}{k}": found[f"r{k}"] / 100 for k in metrics.RECALL_AT}
    for name, value in names.items():
        account.output(name, value)


def _positives(right: np.ndarray, candidates: int) -> np.ndarray:
    """bool `[Q, C]` from the indices of the right candidates, int `[Q, k]` padded with -1."""
    positives = np.zeros((len(right), candidates), bool)
    for row, columns in enumerate(right):
        positives[row, columns[columns >= 0]] = True
    return positives
