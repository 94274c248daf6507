"""The TFDS builders: one class per dataset, one config per variant, all on the same few lines.

`tools/prepare.py` is the usual way and can be killed and resumed. A builder is for those who work with TFDS itself:

    import snp_jax.data.sources.builder
    builder = tfds.builder("snp_msrvtt/9k_1ka", data_dir=D)
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=M))

With `beam_runner` or `beam_options` in the `DownloadConfig`, Apache Beam writes the shards (`beam`).

What each dataset's files look like is in the modules of the datasets (`catalog` lists them); how they are stored, in `prepare`.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from snp_jax.data.sources import beam, catalog
from snp_jax.data.sources.planning import make_plan
from snp_jax.data.sources.prepare import Options, build
from snp_jax.data.sources.shards import features

_VERSION = tfds.core.Version("1.0.0")


class VideoTextBuilder(tfds.core.dataset_builder.FileReaderBuilder, skip_registration=True):
    """Base of the builders; `family` names the dataset in `catalog`."""

    VERSION = _VERSION
    family: ClassVar[str]

    def __init__(self, **kwargs: Any):
        # Every other format needs TensorFlow, or loses records.
        super().__init__(**{**kwargs, "file_format": "array_record"})

    @property
    def dataset(self) -> catalog.Dataset:
        """The entry of `catalog`."""
        return catalog.find("/".join(filter(None, (self.family, self.builder_config and self.builder_config.name))))

    @property
    def MANUAL_DOWNLOAD_INSTRUCTIONS(self) -> str:  # noqa: N802 (TFDS's name)
        return self.dataset.layout

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(builder=self, features=features())

    def _download_and_prepare(self, dl_manager: tfds.download.DownloadManager, download_config: Any = None) -> None:
        options = Options(beam=_beam_pipeline(download_config))
        reading = self.dataset.read(Path(dl_manager.manual_dir))
        # Beside the data, since Beam's machines must see it.
        with tempfile.TemporaryDirectory(dir=Path(self.data_dir).parent) as scratch:
            plan = make_plan(reading, Path(scratch), allow_missing=False, settings=options.settings, progress=lambda: None)
            build(plan, reading, self, Path(self.data_dir), options)


def _beam_pipeline(download_config: tfds.download.DownloadConfig | None) -> beam.MakePipeline | None:
    """What TFDS's `beam_runner` and `beam_options` ask for; None if neither is given."""
    if download_config is None or (download_config.beam_runner is None and download_config.beam_options is None):
        return None

    def make() -> Any:
        import apache_beam

        return apache_beam.Pipeline(runner=download_config.beam_runner, options=download_config.beam_options)

    return make


def _configs(family: str) -> list[tfds.core.BuilderConfig]:
    return [
        tfds.core.BuilderConfig(name=name.partition("/")[2], version=_VERSION)
        for name in catalog.DATASETS
        if name.startswith(f"{family}/")
    ]


class SnpMsrvtt(VideoTextBuilder):
    """MSR-VTT retrieval."""

    family = "msrvtt"
    BUILDER_CONFIGS = _configs("msrvtt")


class SnpMsrvttQa(VideoTextBuilder):
    """MSRVTT-QA."""

    family = "msrvtt_qa"


class SnpMsrvttMc(VideoTextBuilder):
    """MSRVTT multiple choice."""

    family = "msrvtt_mc"


class SnpMsvd(VideoTextBuilder):
    """MSVD retrieval."""

    family = "msvd"


class SnpMsvdQa(VideoTextBuilder):
    """MSVD-QA."""

    family = "msvd_qa"


class SnpDidemo(VideoTextBuilder):
    """DiDeMo paragraph-to-video retrieval."""

    family = "didemo"
    BUILDER_CONFIGS = _configs("didemo")


class SnpCoco2017(VideoTextBuilder):
    """COCO captions 2017."""

    family = "coco2017"
    BUILDER_CONFIGS = _configs("coco2017")


class SnpVisualGenome(VideoTextBuilder):
    """Visual Genome region descriptions."""

    family = "vg"
    BUILDER_CONFIGS = _configs("vg")


class SnpCc3m(VideoTextBuilder):
    """Conceptual Captions."""

    family = "cc3m"


class SnpWebvid(VideoTextBuilder):
    """WebVid: 2M, or any table of the same columns."""

    family = "webvid"
    BUILDER_CONFIGS = _configs("webvid")


class SnpJsonLines(VideoTextBuilder):
    """The release's JSON lines."""

    family = "jsonl"
    BUILDER_CONFIGS = _configs("jsonl")


class SnpFolder(VideoTextBuilder):
    """A folder of one's own."""

    family = "folder"


_BUILDERS = (
    SnpMsrvtt, SnpMsrvttQa, SnpMsrvttMc, SnpMsvd, SnpMsvdQa, SnpDidemo,
    SnpCoco2017, SnpVisualGenome, SnpCc3m, SnpWebvid, SnpJsonLines, SnpFolder,
)  # fmt: skip


def builder_for(dataset: catalog.Dataset, data_dir: str) -> VideoTextBuilder:
    """The builder of a dataset, configured for its variant."""
    family, _, variant = dataset.name.partition("/")
    (builder,) = (cls for cls in _BUILDERS if cls.family == family)
    return builder(data_dir=data_dir, **({"config": variant} if variant else {}))
