"""What all tests share: JAX on eight virtual CPU devices, and small real videos.

Videos are written once per run, the folder dataset and its prepared form too. Frame k of `make_video` carries
k in its picture; `frame_number` reads it back, also after scaling.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # worker processes of the tests find the package from any directory

from snp_jax.xla_flags import with_virtual_devices  # noqa: E402

# Before the first import of JAX. The cache folder is in the environment, so that parallel test processes
# share it.
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # compiling is most of the time of these tiny models
os.environ.pop("XLA_FLAGS", None)
if importlib.metadata.version("jaxlib").startswith("0.10."):  # an unknown flag is fatal; later versions have no choice
    os.environ["XLA_FLAGS"] = "--xla_cpu_use_fusion_emitters=false"  # halves the compiler's work
os.environ.update(with_virtual_devices(os.environ, 8))
_OWN_CACHE = None
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"  # a first checkpoint compiles 170 slices, 60 ms each
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _OWN_CACHE = tempfile.mkdtemp(prefix="snp_jax_tests_")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _OWN_CACHE

import av  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

BLOCKS = (2, 4)  # the frame number in binary: rows x columns of black and white blocks
BROKEN = {"empty": "open", "text": "open", "sound": "no_video_stream"}  # of `folder_dataset`: id -> reason


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole training runs first: the last files should be short ones, or one of two processes ends long before the other."""
    items.sort(key=lambda item: "train" not in item.path.parts)


def pytest_unconfigure() -> None:
    if _OWN_CACHE is not None:
        shutil.rmtree(_OWN_CACHE, ignore_errors=True)


def numbered_picture(number: int, size: tuple[int, int]) -> np.ndarray:
    """uint8 `[H, W, 3]` whose blocks spell `number` < 256."""
    height, width = size
    bits = np.array([number >> i & 1 for i in range(8)]).reshape(BLOCKS)
    picture = np.kron(bits, np.ones((height // BLOCKS[0], width // BLOCKS[1]))) * 220 + 16
    return np.repeat(picture.astype(np.uint8)[:, :, None], 3, axis=2)


def frame_number(frame: np.ndarray) -> int:
    """The number that a decoded frame uint8 `[H, W, 3]` shows."""
    rows, columns = BLOCKS
    height, width = frame.shape[0] // rows, frame.shape[1] // columns
    means = frame[: rows * height, : columns * width].reshape(rows, height, columns, width, 3).mean(axis=(1, 3, 4))
    return int(sum(int(bit) << i for i, bit in enumerate((means > 126).reshape(-1))))


def write_video(
    path: Path,
    num_frames: int,
    *,
    rate: int = 10,
    size: tuple[int, int] = (64, 64),
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    stamps: Sequence[int] | None = None,
) -> Path:
    """Writes a video whose frame k shows k; `stamps` are display times in 1/rate s (default 0, 1, 2, ...)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=options or {})
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, rate)
        for k in range(num_frames):
            frame = av.VideoFrame.from_ndarray(numbered_picture(k, size), format="rgb24")
            frame.pts = k if stamps is None else stamps[k]
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_sound(path: Path) -> Path:
    """Writes a file with sound and no picture, under whatever name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="session")
def make_video() -> Callable[..., Path]:
    """See `write_video`."""
    return write_video


@pytest.fixture(scope="session")
def make_sound() -> Callable[[Path], Path]:
    """See `write_sound`."""
    return write_sound


@pytest.fixture(scope="session")
def read_number() -> Callable[[np.ndarray], int]:
    """See `frame_number`."""
    return frame_number


@pytest.fixture(scope="session")
def folder_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder dataset: train = 13 videos of 12 to 22 frames and the three of `BROKEN`; val = 4 videos.

    Video i ("clip_i") has captions "caption 0 of clip_i" to "caption 2 of clip_i", one question and five
    options.
    """
    root = tmp_path_factory.mktemp("folder")
    videos = root / "videos"
    names = {"train": [f"clip_{i:02d}" for i in range(13)], "val": [f"clip_{i:02d}" for i in range(13, 17)]}
    for i, name in enumerate(names["train"] + names["val"]):
        write_video(videos / f"{name}.mp4", 12 + i % 11)
    (videos / "empty.mp4").write_bytes(b"")
    (videos / "text.mp4").write_text("<html>not found</html>\n" * 20)
    write_sound(videos / "sound.mp4")
    names["train"] += list(BROKEN)
    for split, ids in names.items():
        lines = [
            {
                "video": f"{video_id}.mp4",
                "captions": [f"caption {k} of {video_id}" for k in range(3)],
                "questions": [
                    {
                        "question": f"which is {video_id}?",
                        "answer": "red" if i % 3 else "blue",
                        "kind": "colour",
                    }
                ],
                "options": [f"option {k} of {video_id}" for k in range(5)],
                "option_answer": i % 5,
                "fits": [[ids[i - 1]], [], []],
            }
            for i, video_id in enumerate(ids)
        ]
        (root / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return root


@pytest.fixture(scope="session")
def prepared_dataset(folder_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`folder_dataset` as tools/prepare.py leaves it."""
    from snp_jax.data.sources import catalog, folder
    from snp_jax.data.sources.builder import builder_for
    from snp_jax.data.sources.prepare import Options, prepare

    out = tmp_path_factory.mktemp("prepared") / "data"
    prepare(folder.read_folder(folder_dataset), builder_for(catalog.find("folder"), str(out.parent)), out, Options())
    return out


@pytest.fixture(scope="session")
def text_files(folder_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """`config.text.tokenizer` and `config.text.words` for `folder_dataset`; "caption", "of" and "which" are significant."""
    from snp_jax.data.text_training import train_wordpiece
    from snp_jax.data.words import MinedWords, WordCounts, save_words

    root = tmp_path_factory.mktemp("text")
    lines = [json.loads(line) for line in (folder_dataset / "train.jsonl").read_text().splitlines()]
    texts = [text for line in lines for text in [*line["captions"], line["questions"][0]["question"], *line["options"]]]
    (root / "vocab.txt").write_bytes(train_wordpiece(texts, 120))
    counts = {
        word: WordCounts(verb=0, noun=9 - i, adj=0, num=0, lemma=word) for i, word in enumerate(("caption", "of", "which"))
    }
    save_words(root / "words.json", MinedWords(counts, len(texts), len(texts), "by hand", ()))
    return {"tokenizer": str(root / "vocab.txt"), "words": str(root / "words.json")}


@pytest.fixture(scope="session")
def tiny_config(prepared_dataset: Path, text_files: dict[str, str]) -> Callable[..., object]:
    """`tiny_config(task, **train)`: the smallest model on `prepared_dataset`, 8 pairs a step, 4 steps."""
    from configs import common

    def make(task: str, **train):
        config = common.base(task)
        config.batch_size = 8
        config.dataset.path = str(prepared_dataset)
        config.dataset.max_broken_share = 0.5
        config.clip.num_clips = 2
        config.clip.image_size = (32, 32)
        config.reading.num_workers = 0
        config.text.update(text_files)
        config.text.max_len = 12
        config.text.bucket = config.text.pack = 0  # one shape, one compilation; and alike for one process and several
        config.model.bert.update(width=16, layers=1, heads=2, mlp_width=32, max_positions=16)
        config.model.visual.embed_dims = (8, 8, 16, 16)
        for name, value in {"depths": 1, "heads": 1, "mlp_ratios": 2}.items():
            config.model.visual[name] = (value,) * 4
        if task == "qa":
            config.model.num_answers = 3
        config.optim.learning_rate = 1e-3
        config.optim.warmup_steps = 2
        config.train.update(steps=4, log_every=1, checkpoint_every=2)
        config.train.update(train)
        config.evaluation.update(split="val", batch_size=3, chunk=5)
        return config

    return make


@pytest.fixture(scope="session")
def pretrained(tiny_config: Callable[..., object], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Working directory of a finished pre-training run of `tiny_config`, on all eight devices. Do not write into it."""
    from snp_jax.train.loop import run

    workdir = tmp_path_factory.mktemp("runs") / "pretrain"
    assert run(tiny_config("pretrain"), workdir)
    return workdir
