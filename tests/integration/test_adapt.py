"""Adaptation to long texts: what it gains, what it leaves alone, what it refuses, and that it goes on."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from finetune_helpers import BAD, GOOD, make_model, sentence
from rich.console import Console
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from transformers import AutoConfig, AutoModel, AutoTokenizer, BertForSequenceClassification, BertModel

import linformers
from linformers.cli import main
from linformers.commands.adapt import AdaptSettings, run_adapt
from linformers.convert.interface import Settings, settings_of
from linformers.training.contrast import Contrast
from linformers.training.loading import load_saved


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder, and long texts that each have words of their own."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("adapt")
    make_model(folder / "encoder", "bert", pad_token_id=1, max_position_embeddings=64)
    rng = random.Random(0)
    texts = []
    for _ in range(60):
        own = rng.sample(GOOD + BAD, 6)
        texts.append(" ".join(sentence(rng, own) for _ in range(20)))
    (folder / "texts.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts), encoding="utf-8")
    (folder / "short.jsonl").write_text('{"text": "a good film"}\n' * 60, encoding="utf-8")
    return folder


@pytest.fixture(autouse=True)
def own_cache(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINFORMERS_CACHE", str(work / "cache"))


def settings(work: Path, name: str, **changes: Any) -> AdaptSettings:
    found: dict[str, Any] = {
        "model": str(work / "encoder"),
        "texts": (str(work / "texts.jsonl"),),
        "output": str(work / name),
        "segment_length": 48,
        "max_length": 512,
        "projected_dim": 8,
        "length": 144,
        "steps": 12,
        "learning_rate": 1e-3,
        "evaluation_share": 0.3,
        "evaluation_passages": 16,
        "evaluate_every": 6,
        "save_every": 6,
        "device": "cpu",
    }
    return AdaptSettings(**(found | changes))


def run(given: AdaptSettings) -> dict[str, Any]:
    assert run_adapt(given, console=Console(quiet=True)) == 0
    return json.loads((Path(given.output) / "results.json").read_text())


def test_text_is_found_better_and_the_folder_is_ready(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = run(settings(work, "run"))
    assert results["best"]["loss"] < 0.95 * results["before"]["loss"]
    assert results["best"]["passages"] > results["before"]["passages"]
    assert [step for step, _ in results["evaluations"]] == [0, 6, 12]
    assert set(results["alone"]) == {"loss", "segments", "passages"}
    folder = work / "run" / "model"
    assert "Adaptation to long texts" in (folder / "README.md").read_text()
    model = AutoModel.from_pretrained(folder)
    assert type(model).__name__ == "BertModel" and model.config.linformers["segment_length"] == 48
    assert settings_of(model.config).global_tokens == Settings.global_tokens
    assert model.config._attn_implementation == "linformers" and model.config.max_position_embeddings == 512
    rows = model.embeddings.position_embeddings.weight
    assert torch.equal(rows, rows[:48].repeat(11, 1)[:512]), "positions behind --length are trained as well"
    before = AutoModel.from_pretrained(work / "encoder").embeddings.position_embeddings.weight[:48]
    assert not torch.isclose(rows[:48], before).all(1).any()
    encoder = SentenceTransformer(str(folder), device="cpu")
    text = json.loads((work / "texts.jsonl").read_text().splitlines()[0])["text"]
    ids = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")
    assert ids["input_ids"].shape[1] > 100
    with torch.no_grad():
        expected = model(**ids).last_hidden_state.mean(1)
    torch.testing.assert_close(encoder.encode(text, convert_to_tensor=True)[None], expected, atol=1e-5, rtol=1e-5)
    assert run(settings(work, "run")) == results  # finished: nothing is done again

    again = settings(work, "again", model=str(folder), segment_length=None, steps=1, evaluate_every=1, save_every=1)
    assert run(again)["before"]["loss"] == pytest.approx(results["best"]["loss"], rel=1e-4), "it goes on from there"
    kept: dict[str, Any] = {"segment_length": None, "max_length": None, "projected_dim": None}
    others = {"segment_length": 64, "max_length": 256, "projected_dim": 9, "context_weight": 0.0, "global_tokens": 3}
    for name, value in others.items():
        with pytest.raises(ValueError, match=f"{name}={value}, but .* is linear already"):
            run_adapt(settings(work, "other", model=str(folder), **kept | {name: value}), console=Console(quiet=True))


def test_tokens_that_were_read_are_counted(work: Path) -> None:
    lengths = []

    def counted(objective: Contrast, model: Any, batch: dict[str, torch.Tensor], *more: Any) -> torch.Tensor:
        lengths.append(int(batch.get("attention_mask", torch.ones_like(batch["input_ids"])).sum()))
        return loss(objective, model, batch, *more)

    loss = Contrast.loss
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Contrast, "loss", counted)
        results = run(settings(work, "counted", length=512, steps=3, evaluate_every=3, save_every=3))
    assert results["tokens"] == sum(lengths) < 3 * 4 * 512, "texts are shorter than --length"


def test_every_segment_sees_the_beginning(work: Path) -> None:
    results = run(settings(work, "beginning", global_tokens=6, steps=2, evaluate_every=1, save_every=2))
    assert results["best"]["loss"] <= results["before"]["loss"]
    model = AutoModel.from_pretrained(work / "beginning" / "model").eval()
    assert model.config.linformers["global_tokens"] == 6
    ids = torch.randint(5, 30, (1, 144), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = model(ids).last_hidden_state[0, 96:]
        ids[0, 2] += 1
        moved = (model(ids).last_hidden_state[0, 96:] - before).abs().max()
        model.config.linformers["global_tokens"] = 0
        weaker = model(ids).last_hidden_state[0, 96:]
        ids[0, 2] -= 1
        less = (model(ids).last_hidden_state[0, 96:] - weaker).abs().max()
    assert moved > 2 * less, "a token of the beginning is seen exactly, not in a slot that weighs less"


def test_a_sentence_encoder_that_names_a_head_which_it_lacks(work: Path) -> None:
    """As all-mpnet-base-v2 does."""
    folder = work / "sentences"
    parts = [Transformer(str(work / "encoder"), max_seq_length=48), Pooling(32, pooling_mode="mean")]
    SentenceTransformer(modules=parts, device="cpu").save_pretrained(str(folder))
    config = json.loads((folder / "config.json").read_text())
    for head in ("BertForSequenceClassification", "BertForMaskedLM"):
        (folder / "config.json").write_text(json.dumps(config | {"architectures": [head]}))
        assert type(load_saved("model", str(folder))) is BertModel
    assert run(settings(work, "headless", model=str(folder), steps=1, evaluate_every=1, save_every=1))["steps"] == 1
    saved = json.loads((work / "headless" / "model" / "config.json").read_text())
    assert saved["architectures"] == ["BertModel"]

    BertForSequenceClassification(AutoConfig.from_pretrained(folder)).save_pretrained(folder)  # put there, so kept
    assert type(load_saved("model", str(folder))) is BertForSequenceClassification


def test_a_stopped_run_goes_on_as_if_nothing_had_been(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from linformers.training import engine

    whole = run(settings(work, "whole"))
    step = engine.Engine._step

    def die(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.history.step == 8:
            raise KeyError("power cut")
        return step(self, *args, **kwargs)

    monkeypatch.setattr(engine.Engine, "_step", die)
    with pytest.raises(KeyError):
        run(settings(work, "cut"))
    monkeypatch.undo()
    monkeypatch.setenv("LINFORMERS_CACHE", str(work / "cache"))
    assert run(settings(work, "cut"))["evaluations"] == whole["evaluations"]
    a, b = (load_file(work / name / "model" / "model.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"texts": ("short.jsonl",)}, "none of .* is longer than a segment of 48 tokens"),
        ({"length": 1024}, "length=1024 is more than the 512 tokens"),
        ({"model": "narrow", "segment_length": None}, "in segments of 16 tokens"),
        ({"model": "linformer"}, "reads a text as a whole"),
        ({"model": "slots", "segment_length": None}, r"as a whole \(segment_length=0\)"),
        ({"model": "first"}, "pools tokens by cls"),
        ({"global_tokens": 48}, "global_tokens=48 must be less than the 48 tokens of a segment"),
        ({"segment_length": 100}, "segments of 100 tokens are longer than the 64 positions"),
    ],
)
@pytest.mark.usefixtures("bad_input")
def test_what_cannot_be_adapted(work: Path, changes: dict[str, Any], said: str) -> None:
    linear: dict[str, Any] = {"projected_dim": 8, "max_length": 512}
    for name, made, more in (
        ("linformer", linformers.to_linformer, {}),
        ("slots", linformers.linearise, {}),
        ("narrow", linformers.linearise, {"segment_length": 16}),
    ):
        if changes.get("model") == name:
            made(str(work / "encoder"), **linear, **more).save_pretrained(work / name)
            AutoTokenizer.from_pretrained(work / "encoder").save_pretrained(work / name)
    if changes.get("model") == "first":
        first = SentenceTransformer(
            modules=[Transformer(str(work / "encoder")), Pooling(32, pooling_mode="cls")], device="cpu"
        )
        first.save(str(work / "first"))
    places = {name: str(work / value) if name == "model" else value for name, value in changes.items()}
    if "texts" in places:
        places["texts"] = tuple(str(work / text) for text in changes["texts"])
    with pytest.raises(ValueError, match=said):
        run_adapt(settings(work, f"refused-{abs(hash(said))}", **places), console=Console(quiet=True))


def test_the_command(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--model", work / "encoder", "--texts", work / "texts.jsonl", "--output", work / "command"]
    options += ["--segment-length", 48, "--max-length", 512, "--length", 144, "--evaluation-share", 0.3]
    assert main.run(["adapt", *map(str, options), "--steps", "1", "--device", "cpu"]) == 0
    shown = capsys.readouterr().out
    assert "after" in shown and f"Next: linformers embed --model {work / 'command' / 'model'}" in shown
