"""Training steps on a synthetic batch, without the loop."""

from __future__ import annotations

import jax
import numpy as np

from snp_jax.data.text import load_tokenizer
from snp_jax.train import build, inputs, sharding
from snp_jax.train.optim import make_optimizer
from snp_jax.train.state import abstract_state, create_state, init_params
from snp_jax.train.step import make_train_step


def make_batch(config, tokenizer):
    """Different pairs; the last one is invalid."""
    rng, pairs = np.random.default_rng(0), config.batch_size
    texts = 5 if config.task == "choice" else 1
    encoded = [tokenizer.encode(f"caption {i % 7} of clip {i}", config.text.max_len) for i in range(pairs * texts)]
    shape = (pairs, texts, -1) if config.task == "choice" else (pairs, -1)
    batch = {
        "video": rng.integers(0, 256, (pairs, config.clip.num_clips, *config.clip.image_size, 3), dtype=np.uint8),
        "video_mask": np.ones((pairs, config.clip.num_clips), bool),
        "text_ids": np.stack([ids for ids, _ in encoded]).reshape(shape),
        "text_mask": np.stack([mask for _, mask in encoded]).reshape(shape),
        "valid": np.arange(pairs) < pairs - 1,
    }
    if config.task in ("qa", "choice"):
        batch["label"] = (np.arange(pairs) % 3).astype(np.int32)
    return batch


def mesh_of(sizes):
    """A mesh of these axes, the others 1, over the first devices."""
    sizes = {"data": 1, "fsdp": 1, "model": 1} | sizes
    return sharding.make_mesh(sharding.MeshOptions(**sizes), jax.devices()[: int(np.prod(list(sizes.values())))])


class Run:
    """A run of a config on a mesh, without its loop."""

    def __init__(self, config, mesh, *, reduce="once", accumulate=1, kernels=True):
        self.config, self.tokenizer = config, load_tokenizer(config.text.tokenizer)
        self.mesh = mesh_of(mesh)
        model, task = build.build_model(config, self.tokenizer), build.build_task(config, self.tokenizer)
        options = build.build_optim(config)
        tx = make_optimizer(options)
        self.parts = (
            lambda: init_params(model, jax.random.key(0), spec=inputs.clip_spec(config)), tx, self.mesh,
            lambda params: task.init_memory(params, jax.random.key(1)),
        )  # fmt: skip
        places = jax.tree.map(lambda leaf: leaf.sharding, abstract_state(*self.parts))
        self.step = make_train_step(
            model, task, tx, options, build.build_augment(config), self.mesh, places, config.seed,
            reduce=reduce, accumulate=accumulate, kernels=kernels,
        )  # fmt: skip

    def take(self, steps, batch=None):
        """(metrics of every step, the state after them), on the host."""
        state, found = create_state(*self.parts), []
        batch = sharding.put_batch(make_batch(self.config, self.tokenizer) if batch is None else batch, self.mesh)
        for _ in range(steps):
            state, metrics = self.step(state, batch)
            found.append(jax.device_get(metrics))
        return found, jax.device_get(state)

    def traced(self):
        """The step, traced from shapes alone."""
        batch = make_batch(self.config, self.tokenizer)
        shapes = {
            name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding.batch_sharding(self.mesh))
            for name, x in batch.items()
        }
        return self.step.trace(abstract_state(*self.parts), shapes)

    def compiled(self):
        """HLO of the step."""
        return self.traced().lower().compile().as_text()
