"""The command `convert`, and the distance to the teacher that it measures."""

import io
import json
import os
import shlex
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    PreTrainedTokenizerFast,
)

from linformers import LinformerForMaskedLM, linearise, to_linformer
from linformers.cli.convert import _next
from linformers.cli.main import run
from linformers.commands.convert import convert_to_folder
from linformers.convert.fidelity import measure_fidelity
from linformers.files.sources import Source

WORDS = [a + b for a in "bcdfgklm" for b in "aeiouy"]
SLOTS = ["--exact-length", "0"]
OURS = ["--architecture", "linformer"]
TEXTS = [" ".join(WORDS[i : i + 4 + 5 * i]) for i in range(6)]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny-bert"
    special = ["[PAD]", "[UNK]", "[MASK]", "[CLS]", "[SEP]"]
    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate([*special, *WORDS])}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.enable_truncation(8)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="[PAD]",
        unk_token="[UNK]",
        mask_token="[MASK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=48,
    )
    tokenizer.save_pretrained(str(folder))
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=48,
    )
    model, draws = BertForMaskedLM(config), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5, generator=draws)
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return path


def test_segments(teacher: Path, tmp_path: Path, capsys) -> None:
    output = tmp_path / "out"
    command = ["convert", "--model", str(teacher), "--output", str(output), "--max-length", "64"]
    assert run([*command, "--segment-length", "8", "--context-weight", "0.5", "--projected-dim", "4"]) == 0
    assert "gives what its teacher gives on texts of up to 8 tokens" in capsys.readouterr().out
    facts = json.loads((output / "conversion.json").read_text())
    assert (facts["exact_length"], facts["exact_up_to"]) == (8, 8)
    model = AutoModelForMaskedLM.from_pretrained(output)
    assert model.config.linformers["segment_length"] == 8 and model.config.linformers["context_weight"] == 0.5
    table = model.bert.embeddings.position_embeddings.weight
    assert len(table) == 64 and torch.equal(table[8:16], table[:8])
    assert run([*command[:4], str(tmp_path / "other"), *OURS, "--segment-length", "8"]) == 1
    assert "--segment-length has no effect on a Linformer of ours: leave it out" in capsys.readouterr().err


def test_what_is_linear_already_keeps_its_settings(teacher: Path, tmp_path: Path, capsys) -> None:
    once = ["convert", "--model", str(teacher), "--output", str(tmp_path / "out"), "--max-length", "60"]
    given = ["--segment-length", "8", "--context-weight", "0.5", "--projected-dim", "4", "--global-tokens", "2"]
    assert run([*once, *given, "--projection-kind", "attention_pool"]) == 0
    capsys.readouterr()
    again = ["convert", "--model", str(tmp_path / "out"), "--output", str(tmp_path / "again"), "--max-length", "144"]
    assert run([*again, "--projected-dim", "5"]) == 0
    said = capsys.readouterr().out
    assert "is linear already, and keeps what is not given: " in said and "segment_length=8" in said
    assert "gives what softmax attention with its weights gives on texts of up to 8 tokens" in said
    before, after = (AutoModel.from_pretrained(tmp_path / name) for name in ("out", "again"))
    assert after.config.linformers == before.config.linformers | {"projected_dim": 5}
    some = linearise(before, softmax_layers=(-1,))
    assert some.config.linformers == before.config.linformers | {"projected_dim": [4, None]}, "k is kept, too"
    rows = after.get_submodule("embeddings.position_embeddings").weight
    assert torch.equal(rows, rows[:8].repeat(18, 1)), "the table of 60 was no multiple of a segment"


def test_trained_length(teacher: Path, tmp_path: Path, capsys) -> None:
    output = tmp_path / "out"
    command = ["convert", "--model", str(teacher), "--max-length", "64", "--exact-length", "32"]
    assert run([*command, "--output", str(output), "--trained-length", "8"]) == 0
    assert "gives what its teacher gives on texts of up to 8 tokens" in capsys.readouterr().out
    assert AutoModelForMaskedLM.from_pretrained(output).config.linformers["trained_length"] == 8
    for value, message in (
        ("1", "logarithm of 0"),
        ("-3", "--trained-length must be at least 0"),
        ("x", "valid integer"),
    ):
        assert run([*command, "--output", str(tmp_path / "bad"), "--trained-length", value]) != 0
        assert message in capsys.readouterr().err and not (tmp_path / "bad").exists()


@pytest.mark.parametrize("ours", [False, True])
def test_converts_measures_and_writes(ours: bool, teacher: Path, text_file: Path, tmp_path: Path, capsys) -> None:
    output = tmp_path / "out"
    arguments = [
        *(OURS if ours else []),
        "--projected-dim",
        "4",
        "--exact-length",
        "8",
        "--max-length",
        "64",
        "--softmax-layers",
        "-1",
    ]
    command = ["convert", "--model", str(teacher), "--output", str(output), "--texts", str(text_file), *arguments]
    assert run(command) == 0
    shown = capsys.readouterr().out
    made = LinformerForMaskedLM if ours else BertForMaskedLM
    assert (
        f"tiny-bert -> {made.__name__}" in shown and "gives what its teacher gives on texts of up to 8 tokens" in shown
    )
    assert "Distance to the teacher: 6 texts" in shown
    following = shlex.split(shown.splitlines()[-1].partition("): ")[2])
    assert following[:6] == ["linformers", "distil", "--model", str(output), "--teacher", str(teacher)]
    model, tokenizer = AutoModelForMaskedLM.from_pretrained(output), AutoTokenizer.from_pretrained(output)
    assert type(model) is made and model.config.max_position_embeddings == 64
    if ours:
        assert model.config.layer_attention == [("linformer", 4), ("softmax", None)]
    else:
        kept = {"projected_dim": [4, None], "exact_length": 8, "projection_kind": "cluster"}
        others = {"local_window": 0, "global_tokens": 1, "segment_length": 0, "context_weight": 0.125}
        others |= {"trained_length": 0}
        assert model.config.linformers == kept | others
        assert model.config._attn_implementation == "linformers"
    assert tokenizer.model_max_length == 64 and len(tokenizer(" ".join(WORDS[:20]))["input_ids"]) == 20
    fidelity = json.loads((output / "fidelity.json").read_text())
    assert fidelity["texts"] == 6 and len(fidelity["layers"]) == 3 and fidelity["max_length"] == 48
    assert 0 < fidelity["layers"][2]["cosine"] < 1
    card = (output / "README.md").read_text()
    assert (
        "tiny-bert as a Linformer" if ours else "tiny-bert with linear attention"
    ) in card and f"{fidelity['embedding_cosine']:.4f}" in card
    assert "| `exact_length` | 8 |" in card and "Up to 8 tokens attention is softmax itself" in card
    for name in ("README.md", "conversion.json", "config.json"):
        assert str(tmp_path) not in (output / name).read_text()
    assert json.loads((output / "conversion.json").read_text())["options"]["max_length"] == 64

    first = load_file(output / "model.safetensors")
    assert run(command) == 0  # an earlier conversion is replaced, by the same
    again = load_file(output / "model.safetensors")
    assert first.keys() == again.keys() and all(torch.equal(first[name], again[name]) for name in first)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "texts.jsonl"]


class Hub:
    """Stands in for ``huggingface_hub.HfApi``: keeps what it is asked for, or fails."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, object]] = []
        self.failure: Exception | None = None

    def __call__(self) -> "Hub":
        return self

    def create_repo(self, repo: str, exist_ok: bool) -> str:
        self.asked.append((repo, exist_ok))
        return f"https://hub/{repo}"

    def upload_folder(self, *, repo_id: str, folder_path: Path, commit_message: str) -> None:
        if self.failure is not None:
            raise self.failure
        self.asked.append((repo_id, sorted(path.name for path in Path(folder_path).iterdir())))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    made = Hub()
    monkeypatch.setattr("huggingface_hub.HfApi", made)
    return made


def test_is_pushed_to_the_hub_whole(hub: Hub, teacher: Path, tmp_path: Path, capsys) -> None:
    output = tmp_path / "out"
    command = ["convert", "--model", str(teacher), "--output", str(output), "--push-to-hub", "me/long-bert"]
    assert run(command) == 0
    made, uploaded = hub.asked
    assert made == ("me/long-bert", True) and uploaded[0] == "me/long-bert"
    assert uploaded[1] == sorted(path.name for path in output.iterdir())
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json"} <= set(uploaded[1])
    assert "uploaded to https://hub/me/long-bert" in capsys.readouterr().out


def test_what_cannot_be_pushed_is_kept(hub: Hub, teacher: Path, tmp_path: Path, capsys) -> None:
    output = tmp_path / "out"
    command = ["convert", "--model", str(teacher), "--output", str(output), "--push-to-hub", "me/long-bert"]
    hub.failure = RuntimeError("401 Client Error.\n\nInvalid username or password.")
    assert run(command) == 1
    said = capsys.readouterr().err
    assert said == (
        f"error: {output} is whole, but was not uploaded to me/long-bert: 401 Client Error. To upload it later: "
        f"hf upload me/long-bert {output}\n"
    )
    assert AutoModelForMaskedLM.from_pretrained(output).config.linformers["projected_dim"] == 128


def test_offline_nothing_is_pushed(teacher: Path, tmp_path: Path, capsys) -> None:
    """By the client itself, which the tests keep offline."""
    output = tmp_path / "out"
    assert run(["convert", "--model", str(teacher), "--output", str(output), "--push-to-hub", "me/long-bert"]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"{output} is whole, but was not uploaded" in said and "HF_HUB_OFFLINE" in said
    assert (output / "model.safetensors").is_file()


def test_a_name_that_no_repository_has_is_refused_first(hub: Hub, teacher: Path, tmp_path: Path, capsys) -> None:
    output = tmp_path / "out"
    assert run(["convert", "--model", str(teacher), "--output", str(output), "--push-to-hub", "a/b/c"]) == 1
    assert "--push-to-hub 'a/b/c' is no name of a repository" in capsys.readouterr().err
    assert not output.exists() and not hub.asked


def test_fits_on_text(teacher: Path, text_file: Path, tmp_path: Path) -> None:
    options = [*OURS, "--projection-kind", "linear", "--projected-dim", "4", "--projection-init", "fit"]
    output = ["--output", str(tmp_path / "out"), "--fit-texts", str(text_file)]
    assert run(["convert", "--model", str(teacher), *output, *options]) == 0
    assert "but the projections, on texts.jsonl" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize("fits", [True, False])
def test_a_bar_only_where_it_fits(fits: bool, teacher: Path, text_file: Path, tmp_path) -> None:
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True)
    options = {"projection_kind": "linear", "projection_init": "fit" if fits else "pooling"}
    options |= {"max_length": None, "positions": "tile"}
    source = [Source(path=str(text_file))] if fits else []
    convert_to_folder(
        str(teacher), tmp_path / "out", options, architecture="linformer", fit_sources=source, console=console
    )
    assert ("fitting" in shown.getvalue()) == fits


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--projection-kind", "clusters"], "Did you mean 'cluster'"),
        ([*OURS, "--projection-kind", "linear2"], "Did you mean 'linear'"),
        (["--projection-sharing", "none"], "--projection-sharing has no effect on a model in its own class"),
        (["--architecture", "own", "--fit-texts", "texts.jsonl"], "or give --architecture linformer"),
        (["--texts", "nothing.jsonl"], "nothing.jsonl"),
        (["--texts", "empty.jsonl"], "holds no text"),
        (["--output", "texts.jsonl"], "is a file"),
        (["--output", "."], "holds other files"),
        (["--model", "nothing/there"], "nothing/there is no folder"),
        (["--model", "."], "no config.json"),
        (["--softmax-layers", "7"], "there are 2 layers"),
        ([*OURS, "--projection-init", "fit"], "nothing to fit"),
        ([*OURS, "--fit-texts", "texts.jsonl"], "--fit-texts) are read only by"),
        (["--texts", "folder"], "--texts folder: none of its 0 files is readable"),
        (["--projected-dim", "-5"], "--projected-dim must be at least 1, got -5"),
        (["--projected-dim", "0"], "--projected-dim must be at least 1, got 0"),
        (["--max-length", "16"], "--max-length 16 is below the 48 tokens of the teacher"),
        (
            [*OURS, "--exact-length", "8", "--projection-kind", "conv"],
            "--exact-length 8 needs slots that stand for tokens",
        ),
        (["--exact-length", "-1"], "--exact-length must be at least 0, got -1"),
        (["--positions", "stretch"], "--positions 'stretch'"),
        (["--output", "texts.jsonl/out"], "texts.jsonl is a file"),
    ],
)
def test_errors_leave_nothing(
    arguments: list[str], said: str, teacher, text_file, tmp_path, monkeypatch, capsys
) -> None:
    (tmp_path / "empty.jsonl").write_text('{"text": " "}\n')
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    assert run(["convert", "--model", str(teacher), "--output", "out", *arguments]) == 1
    out, error = capsys.readouterr()
    assert error.startswith("error: ") and said in error and error.count("\n") == 1 and not out
    assert sorted(os.listdir()) == ["empty.jsonl", "folder", "texts.jsonl"]


@pytest.mark.parametrize(
    ("options", "exact"),
    [
        (["--projected-dim", "4"], 48),  # softmax attention reads all
        (["--projected-dim", "4", "--exact-length", "30"], 30),
        (["--projected-dim", "4", *SLOTS], 5),
        (["--projected-dim", "12,4", *SLOTS], 5),
        (["--projected-dim", "9,softmax", *SLOTS, "--global-tokens", "2"], 11),
        (["--projected-dim", "4", *SLOTS, "--global-tokens", "0", "--max-length", "64"], 4),
        (["--projected-dim", "2", *SLOTS, "--local-window", "6"], 8),
        (["--projected-dim", "2", *SLOTS, "--local-window", "20"], 22),
        (["--projected-dim", "34", *SLOTS, "--local-window", "1"], 35),
        (["--projected-dim", "4", *SLOTS, "--projection-kind", "attention_pool"], 48),  # a window of 64
        *(
            ([*OURS, "--projected-dim", "8", *SLOTS, "--projection-kind", kind, "--local-window", "0"], 9)
            for kind in ("mean_pool", "max_pool", "attention_pool")
        ),
        (["--projected-dim", "4", "--softmax-layers", "0", "--softmax-layers", "1", "--max-length", "64"], 48),
        (["--projected-dim", "64", *SLOTS, "--max-length", "64"], 48),
        (["--projected-dim", "64", "--max-length", "64", "--positions", "interpolate"], 0),
        (["--projected-dim", "64", "--positions", "interpolate"], 48),
        ([*OURS, "--projected-dim", "64", "--projection-kind", "linear"], 0),
        ([*OURS, "--projected-dim", "64", "--projection-kind", "linear", "--max-length", "16"], 0),
        ([*OURS, "--attention-type", "kfree"], 0),
    ],
)
def test_what_is_exact_and_what_comes_next(options: list[str], exact: int, teacher, tmp_path, capsys) -> None:
    output = tmp_path / "out put"
    assert run(["convert", "--model", str(teacher), "--output", str(output), *options]) == 0
    shown, card = capsys.readouterr().out, (output / "README.md").read_text()
    facts = json.loads((output / "conversion.json").read_text())
    assert facts["exact_up_to"] == exact
    assert (f"at most {exact} tokens give what the teacher gives" in card) == (exact > 0)
    assert ("linformers distil" in card) == ("linformers distil" in shown) == (exact < 48)
    assert f"from_pretrained('{output}')" in shown or f"'{output}-distilled'" in shown

    original, student = AutoModelForMaskedLM.from_pretrained(teacher), AutoModelForMaskedLM.from_pretrained(output)
    never_slots = facts["max_length"] <= facts["exact_length"]
    assert ("it takes no input longer than" in shown) == never_slots
    for length in (exact, min(exact + 1, 48)) if exact else (16,):
        ids = torch.randint(5, 40, (32, length), generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            gap = (original(ids).logits - student(ids).logits).abs().max()
        assert (gap < 1e-5) == (length <= exact), length


@pytest.mark.parametrize(
    ("exact", "teacher_length", "length"), [(0, 4096, 512), (1024, 4096, 2048), (1024, 1500, 1500)]
)
def test_what_is_distilled_is_longer_than_what_is_exact(exact: int, teacher_length: int, length: int) -> None:
    facts = {"inputs": "texts", "has_teacher": True, "max_length": 8192, "teacher_length": teacher_length}
    facts |= {"exact_length": exact, "exact_up_to": exact, "architecture": "LinformerModel"}
    following = shlex.split(_next(facts, "teacher", Path("out")))
    assert following[following.index("--length") + 1] == str(length)


def test_fairseq_file(tmp_path: Path, capsys, monkeypatch) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    command = ["convert", "--model", str(tmp_path / "model.safetensors"), "--output", str(tmp_path / "out")]
    assert run([*command, "--projected-dim", "8"]) == 1
    assert "--projected-dim has no effect" in capsys.readouterr().err
    state = {"linformer": to_linformer(BertForMaskedLM(tiny_config()))}

    monkeypatch.setattr("linformers.commands.convert.convert_fairseq_linformer", lambda path: state["linformer"])
    assert run([*command, "--max-length", "32"]) == 0
    assert "no tokenizer" in capsys.readouterr().out
    assert AutoModelForMaskedLM.from_pretrained(tmp_path / "out").config.max_position_embeddings == 32


def tiny_config() -> BertConfig:
    return BertConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)


def test_fidelity(teacher: Path) -> None:
    original = BertForMaskedLM.from_pretrained(teacher).eval()
    tokenizer = AutoTokenizer.from_pretrained(teacher)
    equal = measure_fidelity(to_linformer(original), original, tokenizer, TEXTS, batch_size=4)
    assert all(layer.cosine > 0.9999 and layer.relative_error < 1e-5 for layer in equal.layers)
    assert equal.embedding_cosine > 0.9999 and equal.tokens == sum(min(len(t.split()), 48) for t in TEXTS)
    student = to_linformer(original, projected_dim=2, exact_length=0)
    together = measure_fidelity(student, original, tokenizer, TEXTS)
    one_by_one = measure_fidelity(student, original, tokenizer, TEXTS, batch_size=1)  # no padding
    assert together.layers[-1].cosine == pytest.approx(one_by_one.layers[-1].cosine, abs=1e-6)
    assert together.embedding_cosine == pytest.approx(one_by_one.embedding_cosine, abs=1e-6)
    inputs = tokenizer(TEXTS[2], return_tensors="pt")
    with torch.no_grad():
        ours, theirs = (m.base_model(**inputs).last_hidden_state[0] for m in (student, original))
    alone = measure_fidelity(student, original, tokenizer, [TEXTS[2]])
    error = ((ours - theirs).norm(dim=1) / theirs.norm(dim=1)).mean()
    assert alone.layers[-1].relative_error == pytest.approx(error.item(), rel=1e-5)
    cosine = torch.cosine_similarity(ours.mean(0), theirs.mean(0), dim=0)
    assert alone.embedding_cosine == pytest.approx(cosine.item(), abs=1e-6)
    with pytest.raises(ValueError, match="texts is empty"):
        measure_fidelity(student, original, tokenizer, [])
    with pytest.raises(ValueError, match="max_length=49 exceeds the 48 tokens"):
        measure_fidelity(student, original, tokenizer, TEXTS, max_length=49)
