"""Cases of what happens before the network: padding masks, resizing, frame sampling, masking of significant words.

The last two recorded draws of Python's random numbers, which nothing else can repeat; what the draws have to obey is checked.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from snp_jax.data import augment, release, sampling
from snp_jax.data.decode import fit_inside
from snp_jax.objectives import masking
from snp_jax.parity.compare import Account
from snp_jax.parity.golden import Golden
from snp_jax.parity.networks import channels_first, channels_last, compiled

RATIO = 0.15
"""Share of the tokens that are masked."""


def padding_case(golden: Golden, account: Account) -> None:
    """A batch of images of several sizes, with the release's mask."""
    images = [np.moveaxis(golden[f"in/image_{i}"], 0, -1) for i in range(len(golden.config["sizes"]))]
    batch, real = release.pad_images(images, corner=True)
    account.output("out/batch", np.moveaxis(batch, -1, 1))
    account.exact("out/mask", ~real)


def resize_case(golden: Golden, account: Account) -> None:
    """Longer side to a limit, then ImageNet's statistics."""
    for number, (_, _, limit) in enumerate(golden.config["cases"]):
        frames = channels_last(golden[f"in/frames_{number}"])
        size = fit_inside(frames.shape[1:3], (limit, limit))
        account.exact(f"out/size_{number}", size)
        plain = release.resize(frames, size)
        account.output(f"out/resized_no_antialias_{number}", channels_first(plain))
        account.output(f"out/resized_antialias_{number}", channels_first(release.resize(frames, size, antialias=True)))
        account.output(f"out/normalized_no_antialias_{number}", channels_first(augment.normalise(plain, np.float32)))


def frame_sampling_case(golden: Golden, account: Account) -> None:
    """Frames of evaluation are equal; every recorded draw of training is one that `ExclusiveSegments` can draw."""
    for number, case in enumerate(golden.facts["cases"]):
        clips, frames = case["num_clips"], case["vlen"]
        name = f"case {number} ({clips} clips of {frames} frames)"
        middle = sampling.ExclusiveSegments(sampling.middle_offsets(clips))
        account.exact(f"{name}: middle frames", middle.indices(frames), case["uniform"])
        drawn = np.asarray(case["rand"])
        if frames < clips:
            account.exact(f"{name}: repeated frames", middle.indices(frames), drawn)
            continue
        largest = float(np.nextafter(1, 0))
        first, last = (sampling.ExclusiveSegments((offset,) * clips).indices(frames) for offset in (0.0, largest))
        inside = (first <= drawn) & (drawn <= last)
        account.rule(f"{name}: one frame of each segment", bool(inside.all()), f"drawn {drawn.tolist()}")
        ends = (sampling.SegmentSampling((offset,) * clips).indices(frames) for offset in (0.0, largest))
        # Ours are not rounded to whole frames (one frame) and have a last frame (one more).
        near = all(np.abs(ours - theirs).max() <= 2 for ours, theirs in zip(ends, (first, last), strict=True))
        account.rule(f"{name}: our default segments", near, f"not within two frames of {first.tolist()} to {last.tolist()}")


def significant_masking_case(golden: Golden, account: Account) -> None:
    """How many tokens are masked, and which may be: significant ones first.

    Which tokens are significant is not recorded, only how many are. Where enough are, the masked ones are among them; ours is
    run with as many, chosen to include those, and has to mask exactly the recorded number by the same rule.
    """
    cases = golden.facts["cases"]
    length = max(len(case["tokens"]) for case in cases)
    ids = np.zeros((len(cases), length), np.int32)
    significant = np.zeros((len(cases), length), bool)
    maskable = np.arange(length) < np.array([len(case["tokens"]) for case in cases])[:, None]
    for row, case in enumerate(cases):
        tokens, labels = len(case["tokens"]), np.asarray(case["labels"])
        ids[row] = row * length + np.arange(length)
        masked = np.flatnonzero(labels != masking.IGNORE)
        account.exact(f"case {row}: how many are masked", masking.masked_token_count(tokens, RATIO), case["n_to_mask"])
        fallback = case["n_important"] < case["n_to_mask"]
        account.exact(f"case {row}: whether significant words suffice", not fallback, not case["fallback_used"])
        if not fallback:
            account.exact(f"case {row}: masked tokens", len(masked), case["n_to_mask"])
        kept = [
            a == b for a, b, label in zip(case["tokens"], case["out_tokens"], labels, strict=True) if label == masking.IGNORE
        ]
        account.rule(f"case {row}: the other tokens stay", all(kept))
        order = [*masked, *(i for i in range(tokens) if i not in set(masked))] if not fallback else range(tokens)
        significant[row, list(order)[: case["n_important"]]] = True
    _check_ours(account, cases, ids, maskable, significant)


def _check_ours(account: Account, cases: list[dict], ids: np.ndarray, maskable: np.ndarray, significant: np.ndarray) -> None:
    """Runs our masking on captions in which every token is a word of its own."""
    vocabulary = ids.size
    flags = np.zeros(vocabulary, bool)
    flags[ids[significant]] = True
    words = masking.WordArrays(
        jnp.asarray(flags), jnp.asarray(np.flatnonzero(flags), jnp.int32), jnp.arange(vocabulary, dtype=jnp.int32)[:, None],
        jnp.ones(vocabulary, jnp.int32),
    )  # fmt: skip
    draw = compiled(lambda key: masking.mask_significant(key, jnp.asarray(ids), maskable, words, ratio=RATIO, mask_id=0))
    for seed in range(3):
        drawn = draw(jax.random.key(seed))
        chosen = np.asarray(drawn.labels) != masking.IGNORE
        for row, case in enumerate(cases):
            own, wanted = significant[row], case["n_to_mask"]
            right = chosen[row].sum() == wanted and (chosen[row] & own).sum() == min(wanted, own.sum())
            right &= np.array_equal(np.asarray(drawn.labels)[row][chosen[row]], ids[row][chosen[row]])
            account.rule(f"case {row}: our draw {seed}", bool(right), f"masked {np.flatnonzero(chosen[row]).tolist()}")
