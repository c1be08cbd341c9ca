"""`survey compare` as a user would call it: torchvision's ResNet-18 on a folder of images.

The images are the embedded ones, written as PNG files. Writes ``benchmarks/own_compare.json``,
which a page of the book shows. It trains 250 nets, so ``make bench`` leaves it out.
"""

import json
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from typer.testing import CliRunner

from benchmarks.own_model import write_images
from survey_lib import files
from survey_lib.cli import app
from survey_lib.evidence.records import commit

IMAGES = {"train": 2000, "test": 1000}
WORDS = (
    "--model torchvision:resnet18 --keep macs=0.5 "
    "--methods random,l1,l1:scope=local,bn_scale,taylor,fisher "
    "--seeds 5 --tries 7 --size 32 --train-epochs 6 --tune-epochs 2"
)


def main(keep: str = "") -> None:
    """Run the command once and keep what it found; with a folder, go on where it was stopped."""
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(keep or temporary)
        if not (root / "my_images").exists():
            write_images(root / "my_images", **IMAGES)
        data = f"imagefolder:{root / 'my_images'}"
        words = ["compare", *WORDS.split(), "--data", data, "--out", str(root / "compared")]
        result = CliRunner().invoke(app, words)
        if result.exit_code:
            raise RuntimeError(result.output)
        found = json.loads((root / "compared" / "compared.json").read_text(encoding="utf-8"))
    kept = {
        "command": f"survey compare {WORDS} --data imagefolder:my_images --out compared",
        "images": IMAGES,
        "found": {**found, "data": "imagefolder:my_images"},
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
    }
    path = Path(__file__).parent / "own_compare.json"
    files.write_atomic(path, json.dumps(kept, indent=1, ensure_ascii=False) + "\n")
    print(result.output.replace(f"{root}/", ""))


if __name__ == "__main__":
    main(*sys.argv[1:])
