"""`survey prune --model hf:…`: a language model loses neurons, is measured, saved and rebuilt."""

import json

import pytest
import torch
from typer.testing import CliRunner

from survey_lib.cli import app
from survey_lib.mechanics.sparse import StorageError
from survey_lib.methods import own_language
from survey_lib.tasks.data import DataError
from survey_lib.tasks.language import smollm2_folder, smollm2_is_cached
from tests.tiny_language import gpt2, llama, logits, qwen2, tokens, word_tokenizer

WORDS = "Robert is an English film and television actor . He had a guest of the theatre . "


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(WORDS * 8, encoding="utf-8")
    return path


def stored(net, folder):
    net.save_pretrained(folder, safe_serialization=True)
    word_tokenizer().save_pretrained(folder)
    return f"hf:{folder}"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("make", "method"), [*((llama, m) for m in own_language.METHODS), (qwen2, "taylor")]
)
def test_neurons_go_whole_and_the_saved_model_is_the_pruned_one(make, method, text, tmp_path):
    spec = stored(make(), tmp_path / "model")
    said = []
    done = own_language.prune(
        spec, text, method, "neurons=0.5", tmp_path / "out", window=16, say=said.append
    )
    kept = [layer.mlp.down_proj.in_features for layer in done.model.model.layers]
    assert sum(kept) == 36
    assert min(kept) >= 1
    for layer, n in zip(done.model.model.layers, kept, strict=True):
        assert layer.mlp.gate_proj.weight.shape == layer.mlp.up_proj.weight.shape == (n, 16)
    whole, pruned = done.rows
    assert pruned.params == whole.params - 36 * 3 * 16
    assert pruned.file_bytes < whole.file_bytes
    assert pruned.macs_per_token == pytest.approx(whole.macs_per_token - 36 * 3 * 16)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["rows"][1]["perplexity"] == pruned.perplexity
    assert [row["kept"] for row in report["layers"]] == kept
    assert report["measured_windows"] >= report["calibration_windows"] >= 2
    again, _ = own_language.load_pruned(tmp_path / "out")
    assert torch.equal(logits(again, tokens(2)), logits(done.model, tokens(2)))
    assert len(said) == 2


@pytest.mark.filterwarnings("ignore")
def test_what_is_kept_is_what_the_score_ranks_first(text, tmp_path):
    """Magnitude: the norm of a neuron's rows of gate and up, all layers in one ranking."""
    net = llama()
    done = own_language.prune(
        stored(net, tmp_path / "model"), text, "magnitude", "neurons=0.25", tmp_path / "out",
        window=16, say=lambda _: None,
    )  # fmt: skip
    norms = torch.cat([
        (x.mlp.gate_proj.weight.square().sum(1) + x.mlp.up_proj.weight.square().sum(1)).sqrt()
        for x in net.model.layers
    ])  # fmt: skip
    best = set(norms.topk(18).indices.tolist())
    found = {24 * int(name.split(".")[2]) + j for name, units in done.recipe.items() for j in units}
    assert found == best


@pytest.mark.filterwarnings("ignore")
def test_the_command_reports_perplexity_bytes_and_milliseconds(text, tmp_path):
    spec = stored(llama(), tmp_path / "model")
    words = ["prune", "--model", spec, "--method", "taylor", "--keep", "neurons=0.8",
             "--text", str(text), "--out", str(tmp_path / "out"), "--window", "16"]  # fmt: skip
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    for word in ("perplexity", "bytes of the file", "ms a token", "whole", "pruned", "recipe.json"):
        assert word in result.output


@pytest.mark.parametrize(("changes", "said"), [
    ({"keep": "macs=0.5"}, "write neurons=FRACTION"), ({"keep": "neurons=0"}, "more than 0"),
    ({"keep": "neurons=nan"}, "more than 0"), ({"method": "thinet"}, "use one of random, magnit"),
    ({"text": None}, "give --text FILE"), ({"window": 1}, "at least 2 tokens"),
])  # fmt: skip
def test_what_is_asked_wrongly_is_refused_before_a_model_is_loaded(changes, said, text, tmp_path):
    given = {"text": text, "method": "taylor", "keep": "neurons=0.5", "window": 16} | changes
    window = given.pop("window")
    with pytest.raises(ValueError, match=said):
        own_language.prune("hf:/nowhere", out=tmp_path / "out", window=window, **given)


@pytest.mark.filterwarnings("ignore")
def test_texts_and_models_that_will_not_do(text, tmp_path):
    spec, out = stored(llama(), tmp_path / "model"), tmp_path / "out"
    ask = {"method": "random", "keep": "neurons=0.5", "out": out, "say": lambda _: None}
    with pytest.raises(ValueError, match="tokens are too few: two windows of 512"):
        own_language.prune(spec, text, **ask, window=512)
    with pytest.raises(ValueError, match="no such file"):
        own_language.prune(spec, tmp_path / "none.txt", **ask)
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(ValueError, match="not a text in UTF-8"):
        own_language.prune(spec, tmp_path / "bad.txt", **ask)
    with pytest.raises(DataError, match="/nowhere: cannot be loaded"):
        own_language.prune("hf:/nowhere", text, **ask)
    with pytest.raises(ValueError, match="GPT2"):
        own_language.prune(stored(gpt2(), tmp_path / "gpt2"), text, **ask)
    with pytest.raises(StorageError, match=r"recipe\.json: absent or damaged"):
        own_language.load_pruned(tmp_path)
    assert not out.exists()


@pytest.mark.slow
def test_smollm2_loses_neurons(tmp_path):
    """Scored by what the loss says, a tenth goes at little cost; perplexity on unseen windows."""
    if not smollm2_is_cached():
        pytest.skip("SmolLM2 is not in the cache")
    text = tmp_path / "text.txt"
    text.write_text("The river runs through the old town and under three bridges. " * 60)
    done = own_language.prune(
        f"hf:{smollm2_folder()}", text, "taylor", "neurons=0.9", tmp_path / "out", window=64,
        say=lambda _: None,
    )  # fmt: skip
    whole, pruned = done.rows
    assert pruned.params < whole.params
    assert pruned.perplexity < 3 * whole.perplexity
