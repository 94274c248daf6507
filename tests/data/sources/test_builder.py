"""The TFDS builders: every dataset has one, and TFDS's own call prepares it."""

import pytest
import tensorflow_datasets as tfds

from snp_jax.data.sources import builder, catalog, prepared


@pytest.mark.parametrize("name", catalog.DATASETS)
def test_every_dataset_has_a_builder(name, tmp_path):
    made = builder.builder_for(catalog.find(name), str(tmp_path))
    assert made.dataset is catalog.DATASETS[name]
    assert catalog.DATASETS[name].layout == made.MANUAL_DOWNLOAD_INSTRUCTIONS
    assert made.name.startswith("snp_") and set(made.info.features) >= {"video", "captions", "questions", "options"}


def test_tfds_prepares(folder_dataset, tmp_path):
    made = tfds.builder("snp_folder", data_dir=str(tmp_path))
    made.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=str(folder_dataset)))
    source = prepared.open_source(tmp_path / "snp_folder" / "1.0.0", "val")
    assert len(source) == 4 and source[0].annotation.captions[0].startswith("caption 0 of clip_")
    assert len(tfds.data_source("snp_folder", data_dir=str(tmp_path), split="train")) == 16
