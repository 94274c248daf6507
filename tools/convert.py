"""Converts foreign weights to a checkpoint that `config.train.init_from` takes, and a checkpoint back to foreign names.

    python tools/convert.py hf-bert downloads/bert-base-uncased weights/bert
    python tools/convert.py pvt downloads/pvt_v2_b2.pth weights/pvt --config configs/toy/pretrain.py
    python tools/convert.py export runs/pretrain snp_s3.safetensors

Every array of the file that was not used or not found is listed. With --config the weights have to fit that experiment's model
(`--config.key=value` overrides a key); --resize fits its position tables and relative-position tables. No PyTorch is needed,
and nothing inside a file is run.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from snp_jax.errors import UserError, run_cli


def main() -> None:
    from snp_jax.convert.formats import FORMATS
    from snp_jax.train.config import parse_config
    from snp_jax.train.weights import describe, export_weights, import_weights

    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form, allow_abbrev=False)
    parser.add_argument("format", choices=[*FORMATS, "export"], help="what the file is, or `export`")
    parser.add_argument("source", type=Path, help="the foreign file (or folder); for `export` a run or a checkpoint")
    parser.add_argument("destination", type=Path, help="the checkpoint's folder; for `export` a .safetensors file")
    parser.add_argument("--config", help="configs/<experiment>.py that the weights are for")
    parser.add_argument("--resize", action="store_true", help="fit position tables to the config")
    parser.add_argument("--partial", action="store_true", help="accept a file that lacks some arrays of its model")
    arguments, overrides = parser.parse_known_args()
    if overrides and not arguments.config:
        raise UserError(f"unknown argument {overrides[0]!r}")
    if arguments.resize and not arguments.config:
        raise UserError("--resize needs --config, which says to what")

    if arguments.format == "export":
        state = export_weights(arguments.source, arguments.destination)
        print(f"{arguments.destination}: {len(state)} arrays")
        return
    config = parse_config(arguments.config, overrides) if arguments.config else None
    imported = import_weights(
        arguments.format, arguments.source, arguments.destination,
        config=config, resize=arguments.resize, partial=arguments.partial,
    )  # fmt: skip
    print(describe(imported))
    print(f"{arguments.destination}: written; use it with --config.train.init_from={arguments.destination}")


if __name__ == "__main__":
    run_cli(main)
