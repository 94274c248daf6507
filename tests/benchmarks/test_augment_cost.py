"""The benchmark of augmentation: the host's side does what the device does, for the same draws."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture
def benchmark(load_benchmark):
    return load_benchmark("augment")


@pytest.mark.parametrize("library", ["Pillow", "OpenCV"])
def test_host_and_device_agree(benchmark, library):
    if library == "OpenCV":
        pytest.importorskip("cv2", reason="extra bench")
    found = benchmark.differences(getattr(benchmark.host_augment, library)())
    assert len(found) == 31 and max(found.values()) < 0.7, found


def test_draws_stay_inside_the_picture(benchmark):
    rng = np.random.default_rng(0)
    for recipe in benchmark._RECIPES.values():
        options = recipe(64)
        for _ in range(50):
            drawn = benchmark.host_augment.draw(rng, options, (73, 90))
            if drawn.box is not None:
                top, left, height, width = drawn.box
                assert min(top, left) >= 0 and top + height <= 73 and left + width <= 90
            assert len(drawn.operations) == options.rand_ops
