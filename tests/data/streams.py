"""What the tests of the input pipeline share. A module of its own: worker processes import what they are sent."""

import dataclasses

import numpy as np

from snp_jax.data.pipeline import ClipSpec, Reading, train_batches

SPEC = ClipSpec(num_clips=4, image_size=(32, 32))
IN_PROCESS = Reading(num_workers=0, num_threads=2, buffer=4)


@dataclasses.dataclass(frozen=True)
class DrawnCaption:
    """Stands in for a tokenised caption: which of the three was drawn."""

    needs: str = "captions"

    def __call__(self, annotation, rng):
        return {"text_ids": np.full(5, rng.integers(len(annotation.captions)), np.int32)}


def stream(source, reading=IN_PROCESS, seed=0, **options):
    options = {"text": DrawnCaption(), "batch_size": 4, "spec": SPEC, **options}
    return train_batches(source, seed=seed, reading=reading, **options)


def take(batches, count):
    """The next batches; then the stream is closed."""
    taken = [next(batches) for _ in range(count)]
    batches.close()
    return taken


def assert_equal(some, others):
    assert len(some) == len(others)
    for one, other in zip(some, others, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)
