"""Converted ViT, DeiT and AST models compute what their teachers compute, where no slot holds two patches."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers import ASTFeatureExtractor, pipeline

from linformers import (
    LinformerAudioModel,
    LinformerForAudioClassification,
    LinformerForImageClassification,
    LinformerImageModel,
    to_linformer,
)
from linformers.cli import main

SIZE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
IMAGE = {"image_size": 16, "patch_size": 4, "num_channels": 3}
MEL = {"num_mel_bins": 12, "max_length": 29, "patch_size": 4, "frequency_stride": 3, "time_stride": 2}
LABELS = {0: "bad", 1: "fair", 2: "good"}
CASES = [
    ("ViTModel", LinformerImageModel),
    ("ViTForImageClassification", LinformerForImageClassification),
    ("DeiTModel", LinformerImageModel),
    ("DeiTForImageClassification", LinformerForImageClassification),
    ("DeiTForImageClassificationWithTeacher", LinformerForImageClassification),
    ("ASTModel", LinformerAudioModel),
    ("ASTForAudioClassification", LinformerForAudioClassification),
]


def teacher_of(name: str, **changes: Any) -> Any:
    """A tiny teacher, far from the trivial biases, norms and positions that models start with."""
    family = name.removesuffix("Model").split("For")[0]
    settings = {**SIZE, **(MEL if family == "AST" else IMAGE), **changes}
    if "For" in name:
        settings["id2label"] = LABELS
    teacher = getattr(transformers, name)(getattr(transformers, f"{family}Config")(**settings)).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return teacher


def inputs_of(teacher: Any) -> torch.Tensor:
    config, generator = teacher.config, torch.Generator().manual_seed(2)
    if hasattr(config, "max_length"):
        return torch.randn(3, config.max_length, config.num_mel_bins, generator=generator)
    size = config.image_size if isinstance(config.image_size, list | tuple) else (config.image_size, config.image_size)
    return torch.randn(3, config.num_channels, *size, generator=generator)


def compare(teacher: Any, student: Any) -> None:
    """Hidden states and outputs agree to 1e-5."""
    x = inputs_of(teacher)
    with torch.no_grad():
        expected, got = (model(x, output_hidden_states=True) for model in (teacher, student))
    pairs = list(
        zip(expected.hidden_states[:-1], got.hidden_states[:-1], strict=True)
    )  # the last: before a norm, after
    names = [name for name in ("last_hidden_state", "logits") if name in expected]
    assert len(pairs) == 2 and len(names) == 1
    for theirs, ours in [*pairs, *((expected[name], got[name]) for name in names)]:
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("name", "ours"), CASES)
def test_exact_where_each_patch_has_a_slot(name: str, ours: type, tmp_path: Path) -> None:
    teacher = teacher_of(name)
    tokens = teacher.base_model.embeddings.position_embeddings.shape[1]
    compare(teacher, to_linformer(teacher, projected_dim=tokens, exact_length=0))
    teacher.save_pretrained(tmp_path / "teacher")
    to_linformer(tmp_path / "teacher", projected_dim=tokens, global_tokens=2).save_pretrained(tmp_path / "student")
    student = ours.from_pretrained(tmp_path / "student")
    assert student.config.max_position_embeddings == tokens and student.config.converted_from == "teacher"
    assert student.config.id2label == teacher.config.id2label
    assert student.config.num_prefix_tokens == (1 if name.startswith("ViT") else 2)
    compare(teacher, student)
    if "For" in name:  # no weight stays behind
        auto = transformers.AutoModelForAudioClassification if "Audio" in name else None
        auto = auto or transformers.AutoModelForImageClassification
        assert type(auto.from_pretrained(tmp_path / "student")) is ours


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("ViTForImageClassification", {"image_size": [8, 16], "patch_size": [2, 4]}),
        ("ViTForImageClassification", {"num_channels": 1, "hidden_act": "relu", "layer_norm_eps": 0.1}),
        ("ViTModel", {"qkv_bias": False}),
        ("DeiTModel", {"qkv_bias": False}),
        ("ASTForAudioClassification", {"time_stride": 4, "max_length": 31, "layer_norm_eps": 0.1}),
        ("ASTModel", {"frequency_stride": 4, "time_stride": 4, "max_length": 28}),  # patches side by side
    ],
)
def test_settings_of_the_teacher(name: str, changes: dict[str, Any]) -> None:
    teacher = teacher_of(name, **changes)
    compare(teacher, to_linformer(teacher, attention_type="softmax"))
    compare(teacher, to_linformer(teacher, projected_dim=200))


@pytest.mark.parametrize("name", ["DeiTForImageClassificationWithTeacher", "ASTForAudioClassification"])
def test_few_slots_are_near_and_learn(name: str) -> None:
    teacher = teacher_of(name)
    x = inputs_of(teacher)
    expected = teacher(x).logits
    errors = [(to_linformer(teacher, projected_dim=k, exact_length=0)(x).logits - expected).norm() for k in (2, 12)]
    assert errors[0] > errors[1] > 1e-4
    student = to_linformer(teacher, projected_dim=4, projection_kind="linear").train()
    student(x, labels=torch.tensor([0, 1, 2])).loss.backward()
    assert [name for name, p in student.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_images_of_another_size_as_the_teacher_reads_them() -> None:
    teacher = teacher_of("ViTForImageClassification")
    student = to_linformer(teacher, attention_type="softmax")
    x = torch.randn(2, 3, 24, 24, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected = teacher(x, interpolate_pos_encoding=True).logits
        torch.testing.assert_close(student(x).logits, expected, rtol=1e-5, atol=1e-5)


def convert(*arguments: object) -> int:
    return main.run(["convert", *map(str, arguments)])


@pytest.mark.parametrize("modality", ["image", "audio"])
def test_command_carries_the_processor(modality: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    teacher, student = tmp_path / "teacher", tmp_path / "student"
    data: Any
    if modality == "image":
        image = pytest.importorskip("PIL.Image")
        processor = transformers.ViTImageProcessorPil(size={"height": 16, "width": 16}, image_mean=[0.1, 0.2, 0.3])
        model = teacher_of("DeiTForImageClassificationWithTeacher")
        noise = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
        data = image.fromarray(noise)
    else:
        processor = ASTFeatureExtractor(num_mel_bins=12, max_length=29, mean=-3.0)
        model = teacher_of("ASTForAudioClassification")
        data = np.random.default_rng(0).normal(size=8000).astype(np.float32)
    model.save_pretrained(teacher)
    processor.save_pretrained(teacher)
    assert convert("--model", teacher, "--output", student, "--projected-dim", 130) == 0
    assert "no tokenizer" not in capsys.readouterr().out
    facts = json.loads((student / "conversion.json").read_text())
    inputs = {"image": "Images", "audio": "Recordings"}[modality]
    tokens = facts["max_length"]
    assert facts["exact_up_to"] == tokens
    assert f"{inputs} of at most {tokens} tokens give what the teacher gives" in (student / "README.md").read_text()
    task = f"{modality}-classification"
    found = [pipeline(task, model=str(folder))(data) for folder in (teacher, student)]  # type: ignore[call-overload]
    assert [one["label"] for one in found[0]] == [one["label"] for one in found[1]]
    scores = [[one["score"] for one in result] for result in found]
    assert scores[0] == pytest.approx(scores[1], abs=1e-5) and len(scores[0]) == 3


def test_command_without_a_processor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    teacher_of("ViTModel").save_pretrained(tmp_path / "teacher")
    assert convert("--model", tmp_path / "teacher", "--output", tmp_path / "student", "--projected-dim", 4) == 0
    assert "no preprocessor_config.json" in capsys.readouterr().out
    assert "linformers distil" not in (tmp_path / "student" / "README.md").read_text()
    (tmp_path / "texts.txt").write_text("A text.")
    wrong = ("--model", tmp_path / "teacher", "--output", tmp_path / "other", "--texts", tmp_path / "texts.txt")
    assert convert(*wrong) == 1
    assert "texts has no effect on" in capsys.readouterr().err and not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"projection_init": "fit", "projection_kind": "linear", "texts": ["a"]}, "reads texts, but a vit has none"),
        ({"max_length": 64}, "max_length=64 is for text"),
    ],
)
def test_options_of_text(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        to_linformer(teacher_of("ViTModel"), **options)


def test_models_that_cannot_be_converted(tmp_path: Path) -> None:
    teacher = teacher_of("ViTForImageClassification")
    masked = transformers.ViTForMaskedImageModeling(teacher.config)
    with pytest.raises(ValueError, match="a ViTForMaskedImageModeling: its head must be one of"):
        to_linformer(masked)
    with pytest.raises(ValueError, match="no multiple of patch_size"):
        to_linformer(teacher_of("ViTModel", image_size=18))
    teacher.save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"hidden_size": 8}))
    with pytest.raises(ValueError, match="has shape .* in the weights, but .* by config.json"):
        to_linformer(tmp_path)


def test_processor_with_code_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    teacher_of("ViTModel").save_pretrained(tmp_path / "teacher")
    settings = {"auto_map": {"AutoImageProcessor": "mine.MyProcessor"}}
    (tmp_path / "teacher" / "preprocessor_config.json").write_text(json.dumps(settings))
    assert convert("--model", tmp_path / "teacher", "--output", tmp_path / "student") == 1
    assert "never run here" in capsys.readouterr().err and not (tmp_path / "student").exists()


def test_advice_on_ranks_is_for_text(tmp_path: Path) -> None:
    from linformers import advise_projected_dims

    teacher_of("ViTModel").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="ViTModel reads pixel_values"):
        advise_projected_dims(str(tmp_path), ["a text"], target_mass=0.9)


@pytest.mark.parametrize("architecture", ["own", "linformer"])
def test_what_cannot_be_made_short_is_compared_by_softmax_attention(architecture: str, tmp_path: Path, capsys) -> None:
    """Slots read all of an image: the comparison must neither refuse that nor be left out."""
    teacher_of("ViTModel").save_pretrained(tmp_path / "vit")
    few = ["--architecture", architecture, "--projected-dim", "2", "--exact-length", "0"]
    assert convert("--model", tmp_path / "vit", "--output", tmp_path / "out", *few) == 0
    assert (
        "with softmax attention in its place gives what its teacher gives on random images" in capsys.readouterr().out
    )
    assert "Images above" in (tmp_path / "out" / "README.md").read_text()


def test_recordings_that_end_nowhere(tmp_path: Path, capsys) -> None:
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    waves = {"conv_dim": (32, 32), "conv_kernel": (10, 3), "conv_stride": (5, 2), "num_feat_extract_layers": 2}
    config = transformers.Wav2Vec2Config(**shape, **waves, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4)
    transformers.Wav2Vec2Model(config).save_pretrained(tmp_path / "waves")
    assert convert("--model", tmp_path / "waves", "--output", tmp_path / "out", "--projected-dim", "8") == 0
    shown, card = capsys.readouterr().out, (tmp_path / "out" / "README.md").read_text()
    assert "gives what its teacher gives on random recordings" in shown and "up to" not in shown.splitlines()[0]
    assert "Recordings of at most 1,024 tokens give what the teacher gives" in card and "are refused" not in card
