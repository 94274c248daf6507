"""Augmentation on the device against the same on the host: `python benchmarks/augment.py --json results.json [--rounds 7]`.

CPU ms a clip, one core: `snp_jax.data.augment` in a jitted function, and the operations of the same options clip by clip with
Pillow and OpenCV (extra `bench`, as far as it is installed) as a decoding worker would do them. Both give uint8-ranged frames;
normalisation happens on the device in either case, so the device's cost is that of "augment and normalise" less that of
"normalise". Before anything is timed, the results of both are compared for the same draws. Rounds are interleaved, numbers are
medians; the device of round n and the host of round n have the same distributions, not the same draws. Where JAX has an
accelerator the device's part is timed by the clock. Stopped, the same command goes on from the file.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import importlib.util
import os
import time
from collections.abc import Callable
from pathlib import Path

import host_augment
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
from timing import Results, turns

from snp_jax.data import augment, rand_augment
from snp_jax.data.augment import AugmentOptions

_CROP = {"crop_area": (0.08, 1.0), "crop_ratio": (0.75, 1.33), "flip": 0.5}
# name -> (clips, frames, side of the source, side of the result)
_BATCHES = {"8 x 4 at 224": (8, 4, 256, 224), "32 x 8 at 64": (32, 8, 73, 64)}
_RECIPES = {
    "crop, flip": lambda side: AugmentOptions(crop_size=(side, side), **_CROP),
    "crop, flip, RandAugment": lambda side: AugmentOptions(crop_size=(side, side), rand_ops=2, **_CROP),
    "scale": lambda side: AugmentOptions(scale=0.3),
    "zoom, shift, light": lambda side: AugmentOptions(zoom=1.15, shift=0.08, light=0.1),
}
_FREEING_S = 0.1  # XLA's threads go on for a moment after a result is there; that is its CPU time as well
_ALIKE = 1.0  # grey levels of mean difference between device and host: rounding, edges


def main() -> None:
    options = _parse()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # before JAX starts its threads
    results = Results(options.json, {"rounds": options.rounds, "seed": options.seed}, resume=True)
    hosts = {"Pillow": host_augment.Pillow()}
    if importlib.util.find_spec("cv2"):
        hosts["OpenCV"] = host_augment.OpenCV()
    else:
        print("without OpenCV: cv2 is not installed (pip install 'snp-jax[bench]')")
    results.content["backend"] = jax.default_backend()
    results.content["difference"] = {name: differences(host) for name, host in hosts.items()}
    for name, found in results.content["difference"].items():
        if max(found.values()) > _ALIKE:
            raise SystemExit(f"{name} does not do what the device does: {found}")
    results.write()
    for batch, (clips, frames, source, side) in _BATCHES.items():
        for recipe, make in _RECIPES.items():
            made = make(side)
            size = source if made.crop_size else side
            _measure(results, f"{batch}: {recipe}", made, pictures(clips, frames, size, options.seed), side, hosts)
    _conclude(results)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, help="the results")
    parser.add_argument("--rounds", type=int, default=7, help="(default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of pictures and draws")
    return parser.parse_args()


def pictures(clips: int, frames: int, side: int, seed: int) -> np.ndarray:
    """Clips uint8 `[clips, frames, side, side, 3]`: smooth colours with a little noise."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(20, 236, (clips * frames, 9, 9, 3), dtype=np.uint8)
    smooth = np.stack([np.asarray(Image.fromarray(one).resize((side, side), Image.Resampling.BICUBIC)) for one in coarse])
    noisy = np.clip(smooth + rng.normal(0, 3, smooth.shape), 0, 255)
    return noisy.astype(np.uint8).reshape(clips, frames, side, side, 3)


def differences(library: host_augment.Pillow | host_augment.OpenCV) -> dict[str, float]:
    """Mean difference to the device in grey levels of every operation, for the same draws."""
    clips = pictures(len(rand_augment.OPERATIONS), 1, 96, seed=1)
    count, whole = len(clips), (96, 96)
    rng, found = np.random.default_rng(2), {}

    def compare(name: str, device: jax.Array, draws: list[host_augment.Draw], canvas: tuple[int, int] = whole) -> None:
        host = np.stack([host_augment.change(library, clip, one, canvas) for clip, one in zip(clips, draws, strict=True)])
        found[name] = float(np.abs(np.asarray(device) - host).mean())

    none = host_augment.Draw(None, whole, False, (), None, None)
    crop = AugmentOptions(crop_size=(64, 64), crop_area=(0.4, 1.0), crop_ratio=(0.75, 1.33), flip=0.5)
    for name, made, canvas in (("crop, flip", crop, (64, 64)), ("scale", AugmentOptions(scale=0.7), whole)):
        draws = [host_augment.draw(rng, made, whole) for _ in clips]
        box = jnp.array([one.box for one in draws], jnp.float32)
        mirrored, filled = jnp.array([one.mirrored for one in draws]), jnp.array([one.size for one in draws])
        picture = jnp.tile(jnp.array(whole), (count, 1))
        compare(name, augment.cut(clips, box[:, :2], box[:, 2:], canvas, picture, mirrored, filled), draws, canvas)
    for strength in (0.3, -0.3):
        draws = [dataclasses.replace(none, operations=((name, strength),)) for name in rand_augment.OPERATIONS]
        changed = rand_augment.change(clips.astype(np.float32), jnp.arange(count), jnp.full(count, strength))
        for i, name in enumerate(rand_augment.OPERATIONS):
            host = host_augment.change(library, clips[i], draws[i], whole)
            found[f"{name} {strength}"] = float(np.abs(np.asarray(changed[i]) - host).mean())
    key, made = jax.random.key(3), AugmentOptions(zoom=1.15, shift=0.08, light=0.1)
    zoom_key, shift_key, light_key = jax.random.split(key, 3)  # as `augment.augment` draws
    zoom = made.zoom ** jax.random.uniform(zoom_key, (count, 1), minval=-1.0)[:, 0]
    shift = made.shift * jax.random.uniform(shift_key, (count, 2), minval=-1.0)
    light = made.light * jax.random.uniform(light_key, (2, count, 1, 1, 1, 1), minval=-1.0).reshape(2, count).T
    draws = [
        dataclasses.replace(none, zoom=(float(zoom[i]), tuple(shift[i].tolist())), light=tuple(light[i].tolist()))
        for i in range(count)
    ]
    compare("zoom, shift, light", augment.augment(key, clips, made), draws)
    return found


def _measure(
    results: Results, section: str, options: AugmentOptions, clips: np.ndarray, side: int,
    hosts: dict[str, host_augment.Pillow | host_augment.OpenCV],
) -> None:  # fmt: skip
    """Seconds a clip of each competitor."""
    augmented, plain = _device(options)
    on_device, small = jax.device_put(clips), jax.device_put(np.ascontiguousarray(clips[:, :, :side, :side]))
    clock = time.process_time if jax.default_backend() == "cpu" else time.perf_counter
    competitors: dict[str, tuple[Callable[[int], object], Callable[[], float]]] = {
        "augment and normalise": (lambda n: augmented(jax.random.key(n), on_device).block_until_ready(), clock),
        "normalise": (lambda n: plain(small).block_until_ready(), clock),
        **{
            name: (functools.partial(_host, library, options, clips, (side, side)), time.process_time)
            for name, library in hosts.items()
        },
    }
    for run, _ in competitors.values():
        run(0)  # compiles
    for number, name in turns(results, section, competitors, results.content["settings"]["rounds"]):
        run, now = competitors[name]
        started = now()
        run(number + 1)
        if now is time.process_time:
            time.sleep(_FREEING_S)
        results.add(section, name, (now() - started) / len(clips))
    print(section, {name: f"{value * 1e3:.2f} ms" for name, value in results.medians(section).items()}, flush=True)


def _device(options: AugmentOptions) -> tuple[Callable[[jax.Array, jax.Array], jax.Array], Callable[[jax.Array], jax.Array]]:
    """What the step does with frames, with and without augmentation."""

    @jax.jit
    def augmented(key: jax.Array, frames: jax.Array) -> jax.Array:
        return augment.network_frames(augment.training_batch(key, {"video": frames}, options), jnp.float32)

    @jax.jit
    def plain(frames: jax.Array) -> jax.Array:
        return augment.network_frames({"video": frames}, jnp.float32)

    return augmented, plain


def _host(
    library: host_augment.Pillow | host_augment.OpenCV, options: AugmentOptions, clips: np.ndarray, canvas: tuple[int, int],
    seed: int,
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    for clip in clips:
        host_augment.change(library, clip, host_augment.draw(rng, options, clip.shape[1:3]), canvas)


def _conclude(results: Results) -> None:
    """Milliseconds a clip; the device's cost by the host's, the faster one that was measured."""
    table = {}
    for section in results.content["samples"]:
        seconds = results.medians(section)
        device = seconds.pop("augment and normalise") - seconds.pop("normalise")
        table[section] = {"device": device * 1e3, **{name: value * 1e3 for name, value in seconds.items()}}
        table[section]["device_vs_host"] = device / min(seconds.values())
    results.content["ms_a_clip"] = table
    results.write()
    for section, row in table.items():
        print(f"{section:40}", {name: round(value, 2) for name, value in row.items()})


if __name__ == "__main__":
    main()
