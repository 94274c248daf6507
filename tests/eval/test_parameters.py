"""Table II: the four published counts, to the digit, and that the parts are the release's."""

from __future__ import annotations

import pytest

from snp_jax.eval import parameters
from snp_jax.eval.tables import format_table


@pytest.fixture(scope="module")
def tables():
    return parameters.parameter_tables()


def test_the_four_published_counts(tables):
    rows = {row[0]: row[1:] for row in tables[0].rows}
    assert rows["SNP-R50"] == ("160,372,791", "160,372,791", "160.4M", "0")
    assert rows["SNP-PVT"] == ("161,101,087", "161,101,087", "161.1M", "0")
    assert rows["P3E-R50"] == ("205,473,591", "205,473,591", "205.5M", "0")
    assert rows["P3E-PVT"] == ("206,201,887", "206,201,887", "206.2M", "0")
    assert rows["SNP-VST-B"][1:] == ("-", "-", "-")


def test_the_parts_are_those_of_the_release(tables):
    header, parts = tables[1].header, {row[0]: row[1:] for row in tables[1].rows}
    column = {name: i for i, name in enumerate(header[1:])}

    def size(part, network):
        text = parts[part][column[network]]
        return 0 if text == "-" else int(text.replace(",", ""))

    assert size("BERT: embeddings", "SNP-PVT") == 23_440_896 + 393_216 + 1_536 + 1_536
    assert size("BERT: 12 layers", "SNP-PVT") == 85_054_464
    assert size("own cross layers", "P3E-R50") == 21_263_616 and size("own cross layers", "SNP-R50") == 0
    assert size("own cross embeddings", "P3E-R50") + size("own cross layers", "P3E-R50") == 45_100_800
    assert size("visual encoder", "SNP-R50") == 23_454_912 and size("map to 768", "SNP-R50") == 1_573_632
    assert size("visual encoder", "SNP-PVT") == 24_849_856 and size("ImageNet head", "SNP-PVT") == 513_000
    assert size("visual encoder", "SNP-VST-S") == 49_509_078 and size("map to 768", "SNP-VST-S") == 0
    assert size("map to 768", "SNP-VST-B") == 1024 * 768
    assert size("clip features (img_fc)", "SNP-PVT") == 1_181_184 and size("matching score", "SNP-PVT") == 1_182_721
    assert size("masked-word heads", "SNP-PVT") == 2 * 622_650 and size("ITM head", "SNP-PVT") == 1_538
    assert size("temporal encoder", "SNP-PVT") == 22_251_264 - 590_592
    # The release's pre-training model with Video Swin has the temporal pooler and the order classifier besides.
    counted = int(parts["counted"][column["SNP-VST-S"]].replace(",", ""))
    assert counted + 590_592 + size("order classifier (FOM)", "SNP-VST-S") == 186_652_765
    assert size("frozen BatchNorm statistics", "SNP-R50") == 106_240
    assert len({len(line) for line in format_table(tables[1]).splitlines()[1:-1]}) == 1
