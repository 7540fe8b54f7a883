"""What ``convert`` and ``linearise`` keep around an encoder: modules of sentence-transformers, scores, poolers."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModel,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    MPNetConfig,
    MPNetModel,
    PreTrainedTokenizerFast,
)

import linformers
from linformers.cli.main import run
from linformers.convert.load import load_teacher

WORDS = [a + b for a in "bcdfgklm" for b in "aeiouy"]
SHORT = [" ".join(WORDS[:7]), " ".join(WORDS[9:30]), WORDS[3]]
LONG = " ".join(WORDS * 12)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT for 64 tokens, whose tokenizer cuts at 32."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    special = ["[PAD]", "[UNK]", "[MASK]", "[CLS]", "[SEP]"]
    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate([*special, *WORDS])}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 3), ("[SEP]", 4)],
    )
    names = ("pad_token", "unk_token", "mask_token", "cls_token", "sep_token")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, model_max_length=32, **dict(zip(names, special, strict=True))
    )
    tokenizer.save_pretrained(str(folder))
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    config = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=64, num_labels=1, **sizes)
    model = BertForSequenceClassification(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def sentence_folder(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pooled by its first token, a dense layer on top, unit length, prompts."""
    folder = tmp_path_factory.mktemp("models") / "sentences"
    modules = [Transformer(str(encoder), max_seq_length=32), Pooling(16, pooling_mode="cls"), Dense(16, 5), Normalize()]
    model = SentenceTransformer(modules=modules, prompts={"query": "ba be ", "document": ""}, device="cpu")
    model.save_pretrained(str(folder))
    card = "---\nlicense: mit\npipeline_tag: sentence-similarity\ntags: [sentence-transformers]\n---\n# Mine\n"
    (folder / "README.md").write_text(card)
    return folder


def convert(model: Path, output: Path, *options: str) -> int:
    return run(["convert", "--model", str(model), "--output", str(output), *options])


def vectors(model: SentenceTransformer | str) -> torch.Tensor:
    model = model if isinstance(model, SentenceTransformer) else SentenceTransformer(model, device="cpu")
    return torch.cat([model.encode(SHORT, convert_to_tensor=True), model.encode_query(SHORT, convert_to_tensor=True)])


def test_a_folder_of_sentence_transformers_is_carried_whole(sentence_folder, tmp_path, capsys) -> None:
    output = tmp_path / "linear"
    assert convert(sentence_folder, output, "--max-length", "256", "--exact-length", "40", "--projected-dim", "8") == 0
    shown = capsys.readouterr().out
    teacher, model = (SentenceTransformer(str(folder), device="cpu") for folder in (sentence_folder, output))
    torch.testing.assert_close(vectors(model), vectors(teacher), atol=1e-5, rtol=1e-4)
    assert model.max_seq_length == 256 and model.prompts == teacher.prompts
    assert [type(one) for one in model] == [type(one) for one in teacher]
    assert model[0].auto_model.config._attn_implementation == "linformers"
    assert torch.tensor(model.encode(LONG)).isfinite().all()
    assert model.tokenize([LONG])["input_ids"].shape[1] == 256
    card = (output / "README.md").read_text()
    assert "library_name: sentence-transformers" in card and "license: mit" in card
    assert "pipeline_tag: sentence-similarity" in card and 'SentenceTransformer("this folder")' in card
    assert "sentence_transformers.SentenceTransformer" in shown or "linformers distil" in shown

    linear = linformers.linearise(teacher, max_length=256, exact_length=40, projected_dim=8)
    torch.testing.assert_close(vectors(linear), vectors(teacher), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(torch.tensor(linear.encode(LONG)), torch.tensor(model.encode(LONG)))
    assert (linear.max_seq_length, teacher.max_seq_length) == (256, 32)
    assert teacher[0].auto_model.config._attn_implementation == "sdpa"


def test_the_length_of_an_older_layout_is_raised_and_said(sentence_folder, tmp_path, capsys) -> None:
    old = tmp_path / "old"
    shutil.copytree(sentence_folder, old)
    modules = json.loads((old / "modules.json").read_text())
    (old / "0_Transformer").mkdir()
    for path in list(old.iterdir()):
        if path.is_file() and path.name not in ("modules.json", "config_sentence_transformers.json", "README.md"):
            path.rename(old / "0_Transformer" / path.name)
    modules[0] |= {"path": "0_Transformer", "type": "sentence_transformers.models.Transformer"}
    (old / "modules.json").write_text(json.dumps(modules))
    settings = {"max_seq_length": 32, "do_lower_case": False}
    (old / "0_Transformer" / "sentence_bert_config.json").write_text(json.dumps(settings))

    assert convert(old, tmp_path / "linear", "--max-length", "128") == 0
    said = "entence-transformers reads 128 tokens (max_seq_length), where it read 32"
    assert said in capsys.readouterr().out
    assert said in (tmp_path / "linear" / "README.md").read_text()
    model = SentenceTransformer(str(tmp_path / "linear"), device="cpu")
    torch.testing.assert_close(vectors(model), vectors(str(sentence_folder)), atol=1e-5, rtol=1e-4)
    assert model.max_seq_length == 128

    for text, said in (
        ("[{}]", "modules.json does not list modules"),
        ("[", "modules.json does not list modules"),
        (json.dumps([modules[0], modules[1] | {"path": "../elsewhere"}]), "names ../elsewhere, which is outside"),
        (json.dumps([modules[0], modules[1] | {"path": str(tmp_path)}]), "which is outside"),
    ):
        (old / "modules.json").write_text(text)
        assert convert(old, tmp_path / "not") == 1
        assert said in capsys.readouterr().err and not (tmp_path / "not").exists()


def test_without_a_length_what_is_read_stays(sentence_folder, tmp_path) -> None:
    assert convert(sentence_folder, tmp_path / "linear") == 0
    assert SentenceTransformer(str(tmp_path / "linear"), device="cpu").max_seq_length == 32


def test_a_cross_encoder_gives_its_scores(encoder, tmp_path) -> None:
    teacher = CrossEncoder(str(encoder), activation_fn=torch.nn.Tanh(), device="cpu")
    teacher.save_pretrained(str(tmp_path / "scores"))
    assert convert(tmp_path / "scores", tmp_path / "linear", "--max-length", "512", "--exact-length", "40") == 0
    pairs = [(SHORT[0], SHORT[1]), (SHORT[2], SHORT[0])]
    for model in (
        CrossEncoder(str(tmp_path / "linear"), device="cpu"),
        linformers.linearise(teacher, max_length=512, exact_length=40),
    ):
        torch.testing.assert_close(torch.tensor(model.predict(pairs)), torch.tensor(teacher.predict(pairs)))
        assert model.max_seq_length == 512 and isinstance(model.activation_fn, torch.nn.Tanh)
        assert torch.tensor(model.predict([(LONG, LONG)])).isfinite().all()


def test_poolers_are_kept_and_none_is_made_up(encoder, tmp_path) -> None:
    trained = BertModel.from_pretrained(encoder)
    trained.save_pretrained(tmp_path / "with")
    trained.pooler = None
    trained.save_pretrained(tmp_path / "without")
    ids = torch.tensor([[3, 7, 8, 4]])
    with torch.no_grad():
        expected = AutoModel.from_pretrained(tmp_path / "with").eval()(ids).pooler_output
        torch.testing.assert_close(linformers.linearise(tmp_path / "with")(ids).pooler_output, expected)
    linformers.linearise(tmp_path / "without").save_pretrained(tmp_path / "linear")
    assert linformers.linearise(tmp_path / "without")(ids).pooler_output is None
    weights = load_teacher(tmp_path / "linear").state_dict()
    assert weights and not any("pooler" in name for name in weights)


def test_code_and_pickles_around_the_encoder_are_named(sentence_folder, tmp_path, capsys) -> None:
    strange = tmp_path / "strange"
    shutil.copytree(sentence_folder, strange)
    modules = json.loads((strange / "modules.json").read_text())
    modules[2]["type"] = "my_package.Dense"
    (strange / "modules.json").write_text(json.dumps(modules))
    (strange / modules[2]["path"] / "pytorch_model.bin").write_bytes(b"")
    assert convert(strange, tmp_path / "linear") == 0
    shown, card = capsys.readouterr().out, (tmp_path / "linear" / "README.md").read_text()
    for said in ("my_package.Dense is no part of sentence-transformers", "pytorch_model.bin is no safetensors file"):
        assert said in shown and said in card


def test_a_distilled_model_keeps_its_modules(sentence_folder, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("LINFORMERS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "text.txt").write_text("\n".join([LONG] * 40))
    assert convert(sentence_folder, tmp_path / "linear", "--exact-length", "0", "--projected-dim", "4") == 0
    command = ["distil", "--model", str(tmp_path / "linear"), "--teacher", str(sentence_folder), "--device", "cpu"]
    command += ["--texts", str(tmp_path / "text.txt"), "--length", "32", "--steps", "1", "--batch-size", "2"]
    assert run([*command, "--output", str(tmp_path / "run")]) == 0
    model = SentenceTransformer(str(tmp_path / "run" / "model"), device="cpu")
    assert [type(one) for one in model] == [type(one) for one in SentenceTransformer(str(sentence_folder))]
    assert model[0].auto_model.config.linformers["projected_dim"] == 4
    assert torch.tensor(model.encode(SHORT)).isfinite().all()


def test_an_mpnet_whose_configuration_names_a_head_that_it_lacks(encoder, tmp_path) -> None:
    """As all-mpnet-base-v2 does."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    teacher = MPNetModel(MPNetConfig(vocab_size=60, max_position_embeddings=66, **sizes))
    torch.nn.init.normal_(teacher.encoder.relative_attention_bias.weight, std=2.0)
    teacher.save_pretrained(tmp_path / "encoder")
    for file in encoder.glob("tokenizer*"):
        shutil.copy(file, tmp_path / "encoder")
    modules = [Transformer(str(tmp_path / "encoder"), max_seq_length=64), Pooling(16, pooling_mode="mean")]
    SentenceTransformer(modules=modules, device="cpu").save(str(tmp_path / "teacher"))
    file = tmp_path / "teacher" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"architectures": ["MPNetForMaskedLM"]}))

    assert type(linformers.linearise(tmp_path / "teacher")) is MPNetModel
    options = ["--output", str(tmp_path / "linear"), "--max-length", "128", "--exact-length", "40"]
    assert run(["convert", "--model", str(tmp_path / "teacher"), *options]) == 0
    before, after = (SentenceTransformer(str(tmp_path / name), device="cpu") for name in ("teacher", "linear"))
    assert after[0].auto_model.config._attn_implementation == "linformers" and after.max_seq_length == 128
    with torch.no_grad():
        torch.testing.assert_close(after.encode(SHORT), before.encode(SHORT), atol=1e-5, rtol=1e-5)
    assert after.encode([LONG]).shape == (1, 16)
