"""Pixels, paths and compression: what the scene says must be visible."""

import io

import av
import numpy as np
import pytest

from snp_jax.data.toy.encode import encode_mp4
from snp_jax.data.toy.paths import draw_paths
from snp_jax.data.toy.render import OUTLINES, RGB, render_scene
from snp_jax.data.toy.scenes import COLOURS, MOTIONS, SHAPES, Scene, Thing, generator, sample_scenes


def path_of(motion, size="small", seed=0, frames=40):
    scene = Scene((Thing(size, "red", "star", motion if isinstance(motion, tuple) else (motion,)),))
    (path,) = draw_paths(scene, 100, 100, frames, np.random.default_rng(seed))
    return path


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("motion", "axis", "sign"), [("left", "x", -1), ("right", "x", 1), ("up", "y", -1), ("down", "y", 1)])
def test_directions_travel_half_the_frame_and_keep_their_line(motion, axis, sign, seed):
    path = path_of(motion, size="large", seed=seed)
    along, across = (path.x, path.y) if axis == "x" else (path.y, path.x)
    assert sign * (along[-1] - along[0]) > 50
    assert (sign * np.diff(along) > 0).mean() > 0.9
    assert np.ptp(across) < 2


@pytest.mark.parametrize("seed", range(5))
def test_other_motions_move_as_they_are_called(seed):
    for motion in ("grow", "shrink", "spin", "stay"):
        path = path_of(motion, seed=seed)
        assert max(np.ptp(path.x), np.ptp(path.y)) < 2
        ratio = path.radius[-1] / path.radius[0]
        assert (ratio > 2.5) == (motion == "grow") and (ratio < 0.4) == (motion == "shrink")
        assert (np.ptp(path.angle) > np.pi) == (motion == "spin")
    circle = path_of("circle", seed=seed)
    assert min(np.ptp(circle.x), np.ptp(circle.y)) > 50
    zigzag, bounce = path_of("zigzag", seed=seed), path_of("bounce", seed=seed)
    assert np.ptp(zigzag.x) > 55 and np.ptp(bounce.x) < 2
    for path, turns in ((zigzag, 2), (bounce, 3)):
        assert np.ptp(path.y) > 30
        steps = np.sign(np.diff(path.y[::2]))
        assert (np.diff(steps[steps != 0]) != 0).sum() >= turns


def test_two_phases_happen_one_after_the_other():
    path = path_of(("left", "up"))
    half = len(path.x) // 2
    assert path.x[half] - path.x[0] < -50 and np.ptp(path.x[half:]) < 4
    assert path.y[-1] - path.y[half] < -50 and np.ptp(path.y[:half]) < 4
    shrunk = path_of(("grow", "shrink")).radius
    assert shrunk[half] > 2 * shrunk[0] and shrunk[half] > 2 * shrunk[-1]


def test_sizes_are_clearly_different_and_objects_stay_in_the_frame():
    for motion in MOTIONS:
        for seed in range(10):
            small, large = path_of(motion, "small", seed), path_of(motion, "large", seed)
            assert large.radius.mean() > 1.5 * small.radius.mean()
            for path in (small, large):
                assert min(path.x.min(), path.y.min()) > 0.7 * path.radius.min()
                assert max(path.x.max(), path.y.max()) < 100 - 0.7 * path.radius.min()


def test_two_objects_seldom_touch():
    scenes = [s for s in sample_scenes(1, "train", 300) if len(s.things) == 2]
    touching = 0
    for i, scene in enumerate(scenes):
        a, b = draw_paths(scene, 96, 96, 30, np.random.default_rng(i))
        touching += (np.hypot(a.x - b.x, a.y - b.y) < 0.8 * (a.radius + b.radius)).any()
    assert touching < 0.08 * len(scenes)


def test_outlines_have_similar_areas_and_stay_inside_their_box():
    y, x = np.mgrid[-2:2:201j, -2:2:201j]
    for outline in OUTLINES.values():
        inside = outline(x, y) < 0
        assert 1.2 < inside.mean() * 16 < 3.2
        assert np.hypot(x, y)[inside].max() < 1.3


def test_spinning_shows_on_every_shape():
    """Steps of a spin as sampled by 8 frames never bring a shape back onto itself."""
    y, x = np.mgrid[-1.5:1.5:61j, -1.5:1.5:61j]
    for shape in SHAPES:
        for turn in (0.6 / 8, 0.85 / 8, 0.4 / 4, 0.55 / 4):
            cos, sin = np.cos(2 * np.pi * turn), np.sin(2 * np.pi * turn)
            still, spun = OUTLINES[shape](x, y) < 0, OUTLINES[shape](cos * x + sin * y, cos * y - sin * x) < 0
            assert (still != spun).sum() > 0.08 * still.sum(), (shape, turn)


@pytest.mark.parametrize("colour", COLOURS)
def test_frames_show_the_colour_where_the_object_is(colour):
    scene = Scene((Thing("large", colour, "square", ("stay",)),))
    frames, fps = render_scene(scene, generator(0, "train", 5))
    assert frames.dtype == np.uint8 and frames.ndim == 4
    assert min(frames.shape[1:3]) >= 96 and frames.shape[1] % 2 == frames.shape[2] % 2 == 0
    assert 2 <= len(frames) / fps <= 4.1 and 8 <= fps <= 15
    nearest = np.stack([np.abs(frames[0] - rgb).max(axis=-1) for rgb in RGB.values()]).argmin(axis=0)
    close = np.abs(frames[0] - RGB[colour]).max(axis=-1) < 45
    assert close.sum() > 500
    assert (nearest[close] == list(RGB).index(colour)).mean() > 0.9


def test_rendering_is_a_pure_function_of_scene_and_key():
    scene = Scene((Thing("small", "blue", "moon", ("circle",)),))
    first, again, other = (render_scene(scene, generator(0, "train", key))[0] for key in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert first.shape != other.shape or (first != other).any()


@pytest.mark.parametrize(("crf", "limit"), [(20, 6), (30, 12)])
def test_encoded_video_is_h264_with_all_frames_and_close_pixels(crf, limit):
    frames, fps = render_scene(Scene((Thing("large", "green", "heart", ("left",)),)), generator(0, "val", 1))
    data = encode_mp4(frames, fps, crf)
    assert data == encode_mp4(frames, fps, crf)
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt, stream.average_rate) == ("h264", "yuv420p", fps)
        decoded = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])
    assert decoded.shape == frames.shape
    error = np.abs(decoded.astype(float) - frames)
    assert 0.3 < error.mean() < limit
