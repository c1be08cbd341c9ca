"""`survey prune` as a user would call it: torchvision's ResNet-18 on a folder of images.

The images are the embedded ones, written as PNG files, 600 to train on. Writes
``benchmarks/own_model.json``, which a page of the book shows. It trains, so ``make bench`` leaves
it out.
"""

import json
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from PIL import Image
from typer.testing import CliRunner

from survey_lib import files
from survey_lib.cli import app
from survey_lib.evidence.records import commit
from survey_lib.tasks.data import FASHION_MEAN, FASHION_STD, fashion_mnist

WORDS = (
    "--model torchvision:resnet18 --method fisher --keep macs=0.5 --size 32 "
    "--train-epochs 6 --tune-epochs 3"
)


def write_images(root: Path, train: int = 600, test: int = 300) -> None:
    """``root/train/<class>/*.png`` and ``root/test/<class>/*.png``."""
    data = fashion_mnist()
    for part, split, n in (("train", data.train, train), ("test", data.test, test)):
        pixels = ((split.x[:n, 0] * FASHION_STD + FASHION_MEAN) * 255).round().byte().numpy()
        for i, (image, y) in enumerate(zip(pixels, split.y[:n].tolist(), strict=True)):
            folder = root / part / data.classes[y].replace(" ", "_")
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / f"{i}.png")


def main() -> None:
    """Run the command once and keep what it printed."""
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        write_images(root / "my_images")
        words = ["prune", *WORDS.split(), "--data", f"imagefolder:{root / 'my_images'}",
                 "--out", str(root / "small")]  # fmt: skip
        result = CliRunner().invoke(app, words)
        if result.exit_code:
            raise RuntimeError(result.output)
        printed = result.output.replace(f"{root}/", "")
    kept = {
        "command": f"survey prune {WORDS} --data imagefolder:my_images --out small",
        "printed": printed,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
    }
    path = Path(__file__).parent / "own_model.json"
    files.write_atomic(path, json.dumps(kept, indent=1, ensure_ascii=False) + "\n")
    print(printed)


if __name__ == "__main__":
    main()
