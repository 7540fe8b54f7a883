"""Fine-tuning on images and recordings: what it reads, what it leaves, what it refuses, and that it resumes exactly."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from finetune_helpers import make_model, rows, write_jsonl
from pretrain_helpers import fingerprint
from rich.console import Console
from scipy.io import wavfile
from transformers import ASTFeatureExtractor, Wav2Vec2FeatureExtractor, pipeline

from linformers import LinformerConfig, LinformerForAudioClassification, LinformerForImageClassification
from linformers.classification.media import Media
from linformers.classification.settings import FinetuneSettings
from linformers.cli import main
from linformers.commands.finetune import run_finetune
from linformers.commands.report import make_report
from linformers.data.examples import Columns
from linformers.data.tasks_media import Sound, decode_sound, read_media
from linformers.files.rejects import Rejects

SIZE = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "projected_dim": 4,
    "norm_position": "pre",
}
RATE = 1000


def png(label: int, seed: int) -> bytes:
    """Noise, dark for 0 and bright for 1."""
    image = pytest.importorskip("PIL.Image")
    pixels = np.random.default_rng(seed).integers(0, 100, (9, 11)) + 150 * label
    file = io.BytesIO()
    image.fromarray(pixels.astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def samples(label: int, seed: int) -> np.ndarray:
    """A low tone for 0 and a high one for 1, of 60 to 100 samples."""
    rng = np.random.default_rng(seed)
    time = np.arange(rng.integers(60, 100)) / RATE
    wave = np.sin(2 * np.pi * (50, 250)[label] * time + rng.uniform(0, 6)) + rng.normal(0, 0.1, len(time))
    return (wave * 8000).astype(np.int16)


def wav(label: int, seed: int) -> bytes:
    file = io.BytesIO()
    wavfile.write(file, RATE, samples(label, seed))
    return file.getvalue()


def folder_of(path: Path, make: Any, ending: str, count: int = 40) -> Path:
    for i in range(count):
        name = path / ("low", "high")[i % 2] / f"{i}.{ending}"
        name.parent.mkdir(parents=True, exist_ok=True)
        name.write_bytes(make(i % 2, i))
    (path / ".hidden").mkdir()
    (path / ".hidden" / "nothing").write_text("x")
    return path


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    work = tmp_path_factory.mktemp("media")
    torch.manual_seed(0)
    image = LinformerConfig(image_size=8, patch_size=2, **SIZE)
    LinformerForImageClassification(image).save_pretrained(work / "image-model")
    # As an image processor is saved; one that is built needs Pillow.
    processor = {"image_processor_type": "ViTImageProcessor", "size": {"height": 8, "width": 8}}
    processor |= {
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "do_resize": True,
        "do_normalize": True,
        "do_rescale": True,
    }
    (work / "image-model" / "preprocessor_config.json").write_text(json.dumps(processor))
    audio = LinformerConfig(audio_length=96, patch_size=4, classifier_pooling="mean", **SIZE)
    LinformerForAudioClassification(audio).save_pretrained(work / "audio-model")
    extractor = Wav2Vec2FeatureExtractor(sampling_rate=RATE, return_attention_mask=True)
    extractor.save_pretrained(work / "audio-model")
    folder_of(work / "audio", wav, "wav")
    make_model(work / "text-model")
    return work


def images(work: Path) -> Path:
    pytest.importorskip("PIL")
    return work / "image" if (work / "image").exists() else folder_of(work / "image", png, "png")


def settings_of(work: Path, modality: str, name: str, **changes: Any) -> FinetuneSettings:
    if modality == "image":
        images(work)
    given = {
        "model": str(work / f"{modality}-model"),
        "task": str(work / modality),
        "output": str(work / name),
        "modality": modality,
        "epochs": 4.0,
        "batch_size": 6,
        "learning_rate": 1e-2,
        "validation_size": 10,
        "save_every": 4,
        "device": "cpu",
    }
    return FinetuneSettings(**{**given, **changes})


def run(work: Path, modality: str, name: str, **changes: Any) -> Path:
    assert run_finetune(settings_of(work, modality, name, **changes), console=Console(quiet=True)) == 0
    return work / name


@pytest.mark.parametrize("modality", ["image", "audio"])
def test_what_a_run_leaves(work: Path, modality: str) -> None:
    folder = run(work, modality, f"{modality}-whole", epochs=12.0)
    found = json.loads((folder / "results.json").read_text())
    assert found["task"] == {"name": modality, "kind": "single_label", "classes": ["high", "low"]}
    assert found["metrics"]["accuracy"]["value"] >= 0.9  # dark or bright, low or high
    assert found["parts"]["train"]["rows"] == 30 and found["parts"]["train"]["tokens"] > 100
    assert (found["parts"]["train"]["cut"] > 0) == (modality == "audio")  # above 96 samples
    predicted = pq.read_table(folder / "predictions.parquet").to_pylist()
    classify = pipeline(f"{modality}-classification", model=str(folder / "model"))  # type: ignore[call-overload]
    for row in predicted:
        file = work / modality / row["file"]
        assert row["file"].split("/")[0] == row["label"]
        if modality == "audio":
            heard = wavfile.read(file)[1][:96] / 32768
            assert classify(heard.astype(np.float32))[0]["label"] == row["predicted"]
        else:
            from PIL import Image

            assert classify(Image.open(file))[0]["label"] == row["predicted"]
    card = (folder / "model" / "README.md").read_text()
    assert f"{modality}-classification" in card and "text" not in card.replace("context", "")
    assert str(work) not in card


@pytest.mark.parametrize("modality", ["image", "audio"])
def test_a_run_that_goes_on_ends_as_one_that_was_not_stopped(work: Path, modality: str) -> None:
    whole = run(work, modality, f"{modality}-a")
    from linformers.commands import finetune as classify

    class Stop(Exception):
        pass

    def die(*args: object, **kwargs: object) -> None:
        raise Stop

    settings, step = settings_of(work, modality, f"{modality}-b"), Media.__call__
    calls = 0

    def counted(self: Media, items: Any) -> Any:
        nonlocal calls
        calls += 1
        return die() if calls > 11 else step(self, items)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(classify.Media, "__call__", counted)
        with pytest.raises(Stop):
            run_finetune(settings, console=Console(quiet=True))
    assert any((work / f"{modality}-b" / "checkpoints").iterdir())
    assert run_finetune(settings, console=Console(quiet=True)) == 0
    assert fingerprint(work / f"{modality}-b") == fingerprint(whole)
    scores = [json.loads((work / f"{modality}-{run}" / "results.json").read_text())["metrics"] for run in "ab"]
    assert scores[0] == scores[1]


def read(path: Path, modality: Any, share: float = 1.0, **columns: str) -> tuple[list[Any], Rejects]:
    rejects = Rejects(max_share=share)
    return read_media(path, modality, Columns(**columns), rejects), rejects


@pytest.mark.parametrize("stored", ["struct", "binary"])
@pytest.mark.parametrize("modality", ["image", "audio"])
def test_parquet_of_files(tmp_path: Path, modality: str, stored: str) -> None:
    make = png if modality == "image" else wav
    files = [make(i % 2, i) for i in range(6)]
    values: list[Any] = [*files, b"no such thing", None, files[0][:40], files[0]]
    if stored == "struct":
        values = [None if value is None else {"bytes": value, "path": "a.file"} for value in values]
        values.append({"bytes": None, "path": "/somewhere/else"})
    labels = [0, 1] * 3 + [0, 0, 0, None] + [0] * (len(values) - 10)
    pq.write_table(pa.table({modality: values, "label": labels}), tmp_path / "rows.parquet")
    found, rejects = read(tmp_path / "rows.parquet", modality)
    assert [example.content for example in found] == files
    assert [(example.line, example.label) for example in found] == [(i + 1, i % 2) for i in range(6)]
    expected = {"undecodable": 2, "empty": 1 + (stored == "struct"), "no label": 1}
    assert rejects.reasons == expected and rejects.records == len(values)


def test_parquet_of_samples_is_read_as_the_same_wav(tmp_path: Path) -> None:
    waves = [samples(i % 2, i) for i in range(4)]
    table = pa.table(
        {
            "pcm16": pa.array([*waves, [], waves[0]], pa.list_(pa.int16())),
            "sample_rate": pa.array([RATE] * 5 + [0], pa.int32()),
            "label": pa.array([0, 1, 0, 1, 0, 0], pa.int8()),
        }
    )
    pq.write_table(table, tmp_path / "rows.parquet")
    found, rejects = read(tmp_path / "rows.parquet", "audio")
    assert len(found) == 4 and rejects.reasons == {"undecodable": 1, "no sample rate": 1}
    for i, example in enumerate(found):
        expected = decode_sound(wav(i % 2, i))
        assert example.content.rate == expected.rate == RATE
        np.testing.assert_array_equal(example.content.samples, expected.samples)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32])
def test_wav_files_of_all_widths(dtype: Any) -> None:
    wave = np.array([[0.0, 0.5], [-0.5, -0.5], [0.75, 0.25]])  # two channels
    scaled = {np.uint8: wave * 128 + 128, np.int16: wave * 2**15, np.int32: wave * 2.0**31}.get(dtype, wave)
    file = io.BytesIO()
    wavfile.write(file, RATE, scaled.astype(dtype))
    np.testing.assert_allclose(decode_sound(file.getvalue()).samples, [0.25, -0.5, 0.5], atol=1e-6)


def test_recordings_of_another_rate_are_resampled(work: Path) -> None:
    media = Media("audio", str(work / "audio-model"))
    time = np.arange(4000) / (4 * RATE)
    sound = Sound(np.sin(2 * np.pi * 30 * time).astype(np.float32), 4 * RATE)
    from linformers.data.tasks_media import MediaExample

    got = media.load(MediaExample("f", 1, "d", None, 0, sound, "f"))
    assert len(got) == RATE
    np.testing.assert_allclose(got[50:-50], np.sin(2 * np.pi * 30 * np.arange(RATE) / RATE)[50:-50], atol=0.01)


def test_batches_are_masked_or_as_ast_pads_them(work: Path, tmp_path: Path) -> None:
    media = Media("audio", str(work / "audio-model"))
    found, _ = read(work / "audio", "audio")
    items = [{"input": media.load(example), "labels": torch.tensor(0)} for example in found[:5]]
    batch = media(items)
    assert batch["attention_mask"].sum(1).tolist() == [min(len(item["input"]), 96) for item in items]
    frames = LinformerConfig(audio_length=20, num_mel_bins=8, patch_size=4, **SIZE)
    LinformerForAudioClassification(frames).save_pretrained(tmp_path)
    ASTFeatureExtractor(num_mel_bins=8, max_length=20, sampling_rate=RATE).save_pretrained(tmp_path)
    ast = Media("audio", str(tmp_path))  # its extractor needs 400 samples, and pads to its own length
    items = [{"input": ast.load(example), "labels": torch.tensor(0)} for example in found[:5]]
    assert ast(items)["input_values"].shape == (5, 20, 8)


def test_a_model_of_one_channel_reads_grey_images(work: Path, tmp_path: Path) -> None:
    grey = LinformerConfig(image_size=8, patch_size=2, num_channels=1, **SIZE)
    LinformerForImageClassification(grey).save_pretrained(tmp_path)
    processor = json.loads((work / "image-model" / "preprocessor_config.json").read_text())
    one = {"image_mean": [0.5], "image_std": [0.5]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor | one))
    found, _ = read(images(work), "image")
    grey_run = run(work, "image", "grey", model=str(tmp_path), epochs=1.0)
    code = (grey_run / "model" / "README.md").read_text().split("```python\n")[1].split("```")[0]
    code = code.replace("this folder", str(grey_run / "model")).replace(
        "image.png", str(images(work) / "low" / "0.png")
    )
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["inputs"]["pixel_values"].shape == (1, 1, 8, 8)
    media = Media("image", str(tmp_path))
    batch = media([{"input": media.load(example), "labels": torch.tensor(0)} for example in found[:3]])
    assert batch["pixel_values"].shape == (3, 1, 8, 8)


def test_damaged_and_repeated_files_of_a_folder(work: Path, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "audio", wav, "wav", 30)
    (folder / "low" / "cut.wav").write_bytes(wav(0, 77)[:90])
    (folder / "low" / "notes.txt").write_text("no recording")
    (folder / "low" / "twin.wav").write_bytes(wav(1, 1))  # of high/1.wav
    changes = {"task": str(folder), "output": str(tmp_path / "run"), "epochs": 1.0}
    with pytest.raises(ValueError, match="2 of 33 records are unusable"):
        run_finetune(settings_of(work, "audio", "x", **changes), console=Console(quiet=True))
    assert not (tmp_path / "run" / "model").exists()
    run(work, "audio", "x", **changes, max_reject_share=0.1)
    entries = [json.loads(line) for line in (tmp_path / "run" / "rejects.jsonl").read_text().splitlines()]
    named = {Path(entry["file"]).name: entry["reason"] for entry in entries}
    assert named["cut.wav"].startswith("undecodable: no audio") and named["notes.txt"].startswith("undecodable")
    assert named["twin.wav"] == named["1.wav"] == "conflict: the same content has the labels high and low"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"modality": "audo"}, "Did you mean 'audio'"),
        ({"max_length": 64}, "max_length=64 is for text"),
        ({"teacher": "t"}, "teacher='t' is for text"),
        ({"pair": "t"}, "pair='t' is for text"),
        ({"label": "class"}, "label='class' has no effect on"),
        ({"task": "WORK/nothing"}, "no such file or folder"),
        ({"task": "WORK/rows.jsonl"}, "is a folder with a subfolder for each class, or .parquet"),
        ({"task": "WORK/audio-model"}, "no subfolder holds a file"),
        ({"task": "WORK/bare.parquet"}, "need a column sample_rate"),
        ({"task": "WORK/bare.parquet", "text": "label"}, "column 'label' is int64, not the bytes of audio files"),
        ({"task": "WORK/bare.parquet", "text": "sound"}, "text='sound' is no column"),
        ({"model": "WORK/text-model"}, "has no preprocessor_config.json"),
    ],
)
def test_wrong_input(work: Path, changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    write_jsonl(work / "rows.jsonl", rows(4))
    pq.write_table(pa.table({"pcm16": [[1, 2], [3, 4]], "label": [0, 1]}), work / "bare.parquet")
    changes = {
        name: value.replace("WORK", str(work)) if isinstance(value, str) else value for name, value in changes.items()
    }
    modality = changes.pop("modality", "audio")
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        run(work, modality, "wrong", **changes, output=str(tmp_path / "run"))
    assert said in str(error.value)
    assert not (tmp_path / "run" / "run.json").exists()


def test_images_without_pillow(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'linformers\[vision\]'"):
        Media("image", str(work / "image-model"))


def test_command(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = work / "command"
    options = ["--modality", "audio", "--task", work / "audio", "--model", work / "audio-model", "--output", output]
    assert main.run(["finetune", *map(str, options), "--epochs", "1", "--device", "cpu"]) == 0
    assert "transformers.pipeline('audio-classification'" in capsys.readouterr().out
    assert "high" in make_report(output)
