"""What is measured: the paper's SNP-PVT, one batch of pairs with recorded random choices, and our side of it.

The peer (`peer.py`) gets the same weights and arrays. No dropout on either side, so that the very steps that are timed have
equal losses.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from configs import common
from snp_jax.data.pipeline import ClipSpec
from snp_jax.models.bert import BertConfig
from snp_jax.models.network import Network
from snp_jax.models.pvt import PVTConfig
from snp_jax.models.snp import SNP, SNPConfig
from snp_jax.objectives import masking
from snp_jax.objectives.masking import Masked
from snp_jax.objectives.total import mean, total_loss
from snp_jax.train.build import build_mesh, build_optim, build_visual
from snp_jax.train.choices import FixedChoices
from snp_jax.train.compat import Compat
from snp_jax.train.gvtm import MatchingOptions
from snp_jax.train.inputs import trim_texts
from snp_jax.train.optim import make_optimizer
from snp_jax.train.pretrain import DRAWS, MORE_DRAWS, PretrainTask
from snp_jax.train.state import init_params
from snp_jax.train.tasks import TEXT_PLACES

MAX_LEN = 30
CLS, SEP, MASK, PAD = 101, 102, 103, 0
REAL_LENGTHS = (7, 8, 9, 10, 12, 13, 15, 20)
"""Tokens, [CLS] and [SEP] included, of eight captions as MSRVTT has them: 5, 6, 7, 8, 9, 10, 13 and 17 words (mean 9.4), three
of which are split once."""
REAL, FULL, ATTENDED = "ours, real captions", "ours, 30 tokens", "ours, attended"
"""Names of the batches of training."""
CLIPS = 16
"""Clips of the video in inference."""
NO_DROPOUT = dict.fromkeys((*DRAWS, *MORE_DRAWS, "pair_dropout"))
WEIGHTS = dict.fromkeys(("mlm_text", "mlm_cross", "gvtm_stage1", "gvtm_stage2", "lvwm"), 1.0) | dict.fromkeys(
    ("itm", "fom", "tags"), 0.0
)


class Batch(NamedTuple):
    """One batch of B pairs with its recorded choices, NumPy.

    Attributes:
        frames: normalised float32 `[B, T, H, W, 3]`.
        ids, mask: captions int32, bool `[B, L]`.
        masked_ids, labels: int32 `[B, L]`, what MLM / MSSM made of them.
        attended_ids, attended_labels: int32 `[B, L]` where attentive masking replaced the cross branch's captions, else None.
        words: int32 `[B, K]`, LVWM's positions.
        places: int32 `[C]`, where the real tokens of the captions stand; None = padding is not left out.
    """

    frames: np.ndarray
    ids: np.ndarray
    mask: np.ndarray
    masked_ids: np.ndarray
    labels: np.ndarray
    attended_ids: np.ndarray | None
    attended_labels: np.ndarray | None
    words: np.ndarray
    places: np.ndarray | None = None

    def trimmed(self) -> Batch:
        """The same batch as training gets it: see `inputs.trim_texts`."""
        config = common.base("pretrain")
        one = build_mesh(config, jax.devices()[:1])
        found = trim_texts({"text_ids": self.ids, "text_mask": self.mask}, config, one)
        length = found["text_mask"].shape[1]
        texts = ("ids", "mask", "masked_ids", "labels", "attended_ids", "attended_labels")
        given = {name: getattr(self, name) for name in texts}
        cut = {name: None if x is None else x[:, :length] for name, x in given.items()}
        return self._replace(**cut, places=found.get(TEXT_PLACES))


def network_config(tiny: bool) -> SNPConfig:
    """The published network, or one for trying the benchmark out."""
    if tiny:
        visual = PVTConfig((8, 16, 20, 32), (1, 1, 1, 1), (1, 2, 5, 8), (2, 2, 2, 2))
        return SNPConfig(BertConfig(vocab_size=1000, width=48, layers=2, heads=4, mlp_width=96), visual, sep_id=SEP)
    config = common.base("pretrain")
    return SNPConfig(BertConfig(vocab_size=30_522, **config.model.bert.to_dict()), build_visual(config), sep_id=SEP)


def make_params(model: SNP) -> Any:
    """Random parameters as at the start of training, but with biases and scales moved off 0 and 1: no part goes unnoticed."""
    spec = ClipSpec(num_clips=1, image_size=(64, 64))
    shapes = jax.eval_shape(lambda: init_params(model, jax.random.key(0), spec=spec))
    rng = np.random.default_rng(1)

    def leaf(path: tuple[Any, ...], shape: jax.ShapeDtypeStruct) -> np.ndarray:
        std = 0.3 if "dwconv" in jax.tree_util.keystr(path) else 0.02
        return (path[-1].key == "scale") + std * rng.standard_normal(shape.shape, np.float32)

    return jax.tree_util.tree_map_with_path(leaf, shapes)


def make_batch(lengths: tuple[int, ...], side: int, vocab_size: int, *, clips: int = 1, attended: bool = False) -> Batch:
    """A batch of random frames `[B, clips, side, side, 3]` and captions of the given numbers of tokens."""
    rng, count = np.random.default_rng(2), len(lengths)
    ids = np.full((count, MAX_LEN), PAD, np.int32)
    ids_of = lambda size: rng.integers(200, vocab_size, size)  # noqa: E731  (200: beyond the special ids)
    mask = np.arange(MAX_LEN) < np.asarray(lengths)[:, None]
    for row, length in zip(ids, lengths, strict=True):
        row[:length] = [CLS, *ids_of(length - 2), SEP]
    copies = []
    for whole in (False, True):  # masking by words, and by attention: all [MASK]
        masked, labels = ids.copy(), np.full_like(ids, masking.IGNORE)
        for b, length in enumerate(lengths):
            chosen = rng.choice(np.arange(1, length - 1), max(1, int(0.15 * (length - 2))), replace=False)
            labels[b, chosen] = ids[b, chosen]
            masked[b, chosen] = MASK if whole else np.where(rng.random(len(chosen)) < 0.8, MASK, ids_of(len(chosen)))
        copies += [masked, labels]
    words = np.stack([rng.choice(np.arange(1, length - 1), 3, replace=False) for length in lengths]).astype(np.int32)
    frames = rng.standard_normal((count, clips, side, side, 3)).astype(np.float32)
    if not attended:
        copies[2:] = None, None
    return Batch(frames, ids, mask, *copies, words)


def train_batches(side: int, vocab_size: int, repeats: int = 1) -> dict[str, Batch]:
    """The batches of training: captions of real lengths, all of `MAX_LEN` tokens, and real ones masked by attention.

    A batch has `repeats` captions of each length in `REAL_LENGTHS`.
    """
    lengths = REAL_LENGTHS * repeats
    make = {REAL: (lengths, False), FULL: ((MAX_LEN,) * len(lengths), False), ATTENDED: (lengths, True)}
    return {name: make_batch(lengths, side, vocab_size, attended=on) for name, (lengths, on) in make.items()}


def infer_batch(side: int, vocab_size: int) -> Batch:
    """One video of `CLIPS` clips and one caption of median length."""
    return make_batch((sorted(REAL_LENGTHS)[len(REAL_LENGTHS) // 2],), side, vocab_size, clips=CLIPS)


@dataclasses.dataclass(frozen=True)
class Ours:
    """Our side: the network, the pre-training task and the optimiser, as a run uses them."""

    model: SNP

    def task(self, **matching: Any) -> PretrainTask:
        """All objectives of the paper; `matching` changes `MatchingOptions`."""
        options = {
            "anchor": "middle", "temperature": 1.0, "negatives": 0, "mining": "top_k", "draw_temperature": 0.1,
            "reweight": "none", "local_groups": 1, "chunk": 512, "similarity_chunk": 512,
        }  # fmt: skip
        return PretrainTask(
            num_clips=1, weights=WEIGHTS, matching=MatchingOptions(**(options | matching)), moco=None, compat=Compat(),
            masker=None, mask_ratio=0.15, attentive=0.0, significant=None, special_ids=(PAD, CLS, SEP, MASK), mask_id=MASK,
            lvwm="after", words_per_caption=3, matching_caption="masked", order_ratio=0.15,
        )  # fmt: skip

    def loss(self, params: Any, batch: Batch, task: PretrainTask) -> tuple[jax.Array, dict[str, jax.Array]]:
        """(total, each term) of a batch."""
        masked, attended = Masked(batch.masked_ids, batch.labels), None
        if batch.attended_ids is not None:
            attended = Masked(batch.attended_ids, batch.attended_labels)
        valid = jnp.ones(batch.ids.shape[0], bool)
        inputs = {
            "text_ids": batch.ids, "text_mask": batch.mask, "valid": valid,
            "video_mask": jnp.ones(batch.frames.shape[:2], bool),
        }  # fmt: skip
        if batch.places is not None:
            inputs[TEXT_PLACES] = batch.places
        choices = FixedChoices(masked, attended, batch.words)
        computed, _ = task.forward(Network(self.model, params), batch.frames, inputs, choices, NO_DROPOUT, None)
        return total_loss(computed.terms, task.weights), {name: mean(term) for name, term in computed.terms.items()}

    def optimizer(self) -> optax.GradientTransformation:
        """The recipe's: gradient clipping and AdamW with its decay groups."""
        return make_optimizer(build_optim(common.base("pretrain")))

    def train_step(self, task: PretrainTask) -> Any:
        """Jitted `(params, optimiser state, batch) -> (params, optimiser state, terms and "gradient_norm")`.

        The first two arguments are donated.
        """
        tx = self.optimizer()

        def step(params, opt_state, batch):
            (_, terms), gradients = jax.value_and_grad(self.loss, has_aux=True)(params, batch, task)
            updates, opt_state = tx.update(gradients, opt_state, params)
            terms["gradient_norm"] = optax.tree.norm(gradients)
            return optax.apply_updates(params, updates), opt_state, terms

        return jax.jit(step, donate_argnums=(0, 1))

    def score(self, params: Any, frames: jax.Array, ids: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Inference: (stage-1 similarity by clip `[N]`, matching score `[]`) of one video `[1, N, H, W, 3]` and one caption."""
        net, clips = Network(self.model, params), frames.shape[1]
        video = net.clips(frames, jnp.ones(frames.shape[:2], bool), num_clips=clips)
        text = net.text(ids, mask)
        first = jnp.zeros(1, jnp.int32)
        captions, videos = net.caption_inputs(ids, mask), net.clip_inputs(video.tokens, video.mask)
        score = net.pair_scores(captions, videos, first, first, chunk=0)
        return video.features[0] @ text.feature[0], score[0]
