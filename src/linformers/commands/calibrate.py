"""What a classifier's probabilities are worth on labelled documents, and where to draw the line for a review queue."""

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from rich.console import Console
from sklearn.metrics import brier_score_loss, precision_recall_curve, roc_auc_score

from linformers.convert.load import name_of
from linformers.data.examples import Columns, read_examples
from linformers.data.tasks_rules import encode_labels, for_model
from linformers.extraction.results import ANSWERS, TAGS
from linformers.files.environment import command_line, describe_environment
from linformers.files.folders import check_output, write_folder
from linformers.files.forms import Form
from linformers.files.inputs import Input
from linformers.files.progress import ReadProgress
from linformers.files.rejects import Rejects
from linformers.files.sources import file_format
from linformers.report.plots import plot_reliability, plot_thresholds, save_png
from linformers.scoring.columns import TrainedInputs, columns_to_score
from linformers.scoring.networks import hash_model
from linformers.scoring.scorer import Scorer
from linformers.scoring.settings import Reading
from linformers.training.evaluate import wilson_interval

FACTS, RELIABILITY, THRESHOLDS = "calibration.json", "reliability.png", "thresholds.png"
AT_ONCE = 1024  # documents
BINS, POINTS = 10, 200  # of the plots


def run_calibrate(
    reading: Reading,
    labelled: str,
    output: Path,
    *,
    target: str | None,
    precision: float | None,
    recall: float | None,
    columns: Columns = Columns(),  # noqa: B008  (it is frozen)
    form: Form = Form(),  # noqa: B008
    max_reject_share: float = 0.01,
    console: Console,
) -> dict[str, Any]:
    """Choose a threshold and measure calibration; returns what ``calibration.json`` holds.

    Args:
        reading: the model, and how it reads; the same as in the scoring to come.
        labelled: file of labelled documents that the model was not trained on.
        output: folder; one of an earlier calibration is replaced.
        target: the label to find.
        precision: least share of the target among what is flagged: the threshold with the highest recall that has it.
        recall: least share of the target that is flagged: the highest threshold that has it. One of both.
        columns: columns to read.
        form: what is given of the form of the file.
        max_reject_share: largest share of unusable rows; with more nothing is written but the rejects.
        console: where to print.

    Raises:
        ValueError: an option or a file that cannot be used, or a target that no threshold reaches.
    """
    aim, least = ("precision", precision) if recall is None else ("recall", recall)
    if least is None or (precision is not None and recall is not None):
        raise ValueError("give one target: precision=0.95 (of what is flagged) or recall=0.95 (of what is there)")
    if not 0 < least <= 1:
        raise ValueError(f"{aim}={least:g} must be a share above 0, at most 1")
    check_output(output, FACTS)
    scorer = Scorer(reading)
    if scorer.network.kind in (TAGS, ANSWERS):
        what = "a tagger of tokens" if scorer.network.kind == TAGS else "a model that answers questions"
        raise ValueError(f"model={reading.model!r} is {what}; calibrate takes classifiers of texts")
    target = _choose_target(target, scorer.network.labels)
    listed = output.parent / f"{output.name}-rejects.jsonl"
    listed.unlink(missing_ok=True)
    with Rejects(path=listed, max_share=max_reject_share) as rejects:
        truth, scores = _score(scorer, labelled, target, columns, form, rejects, console)
    threshold = choose_threshold(truth, np.round(scores, 6), **{aim: least})
    chosen = scores >= threshold
    found, flagged, positives = int((truth & chosen).sum()), int(chosen.sum()), int(truth.sum())
    bins = reliability(truth, scores)
    facts: dict[str, Any] = {
        "kind": "linformers calibrate",
        "format": 1,
        "command": command_line(),
        "model": {"name": name_of(reading.model), "sha256": hash_model(Path(reading.model))},
        "reading": reading.model_dump(exclude={"model", "memory"}),
        "documents": {
            "file": Path(labelled).name,
            "rows": len(truth),
            "positives": positives,
            "rejected": rejects.rejected,
        },
        "target": target,
        "asked": {aim: least},
        "threshold": threshold,
        "precision": _share(found, flagged),
        "recall": _share(found, positives),
        "flagged": flagged,
        "auroc": float(roc_auc_score(truth, scores)),
        "brier": float(brier_score_loss(truth, scores)),
        "calibration_error": sum(one["documents"] * abs(one["predicted"] - one["found"]) for one in bins) / len(truth),
        "bins": bins,
        "thresholds": thresholds(truth, scores),
        "environment": describe_environment(torch.device("cpu")),
    }

    def write(folder: Path) -> None:
        (folder / FACTS).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        predicted, share = ([one[name] for one in bins] for name in ("predicted", "found"))
        save_png(plot_reliability(predicted, share, target), folder / RELIABILITY)
        save_png(plot_thresholds(facts["thresholds"], threshold, target), folder / THRESHOLDS)

    write_folder(output, write)
    _conclude(facts, reading, output, console)
    return facts


def choose_threshold(
    truth: Bool[np.ndarray, " rows"],
    scores: Float[np.ndarray, " rows"],
    *,
    precision: float | None = None,
    recall: float | None = None,
) -> float:
    """The lowest threshold with the precision, or the highest with the recall: midway to the next score below.

    Raises:
        ValueError: documents of one kind only, or a precision that no threshold has.
    """
    if truth.all() or not truth.any():
        raise ValueError(f"{len(truth):,} documents, {int(truth.sum()):,} of the target: both kinds are needed")
    precisions, recalls, thresholds = precision_recall_curve(truth, scores)
    if recall is not None:
        place = int(np.flatnonzero(recalls[:-1] >= recall).max())
    else:
        reached = np.flatnonzero(precisions[:-1] >= precision)
        if not len(reached):
            best = int(precisions[:-1].argmax())
            raise ValueError(
                f"precision={precision:g} is reached by no threshold; the best is {precisions[best]:.3f}, at "
                f"{thresholds[best]:.4g} with a recall of {recalls[best]:.3f}. Ask for less, or train a better model"
            )
        place = int(reached.min())
    # At a score itself, rounding in another batch would decide.
    return float(thresholds[max(place - 1, 0)] + thresholds[place]) / 2


def reliability(truth: Bool[np.ndarray, " rows"], scores: Float[np.ndarray, " rows"]) -> list[dict[str, Any]]:
    """Mean probability and share of the target in tenths of the documents, by probability."""
    parts = [part for part in np.array_split(np.argsort(scores, kind="stable"), BINS) if len(part)]
    return [
        {"documents": len(part), "predicted": float(scores[part].mean()), "found": float(truth[part].mean())}
        for part in parts
    ]


def thresholds(truth: Bool[np.ndarray, " rows"], scores: Float[np.ndarray, " rows"]) -> list[list[float]]:
    """Threshold, precision and recall at up to 200 of the scores, from the lowest to the highest."""
    precisions, recalls, places = precision_recall_curve(truth, scores)
    chosen = np.unique(np.linspace(0, len(places) - 1, min(POINTS, len(places))).round().astype(int))
    return [[float(places[i]), float(precisions[i]), float(recalls[i])] for i in chosen]


def _choose_target(target: str | None, labels: list[str]) -> str:
    if not labels:
        raise ValueError("the model is no classifier, so that there is nothing to calibrate")
    if target is None:
        raise ValueError(f"target is missing: name the label to find, one of {', '.join(labels)}")
    if target not in labels:
        raise ValueError(f"target={target!r} is no label of the model: choose one of {', '.join(labels)}")
    return target


def _score(
    scorer: Scorer, labelled: str, target: str, columns: Columns, form: Form, rejects: Rejects, console: Console
) -> tuple[np.ndarray, np.ndarray]:
    """Whether each usable document is of the target, and its probability."""
    labels, kind = scorer.network.labels, scorer.network.kind
    assert kind is not None and kind != TAGS and kind != ANSWERS  # refused before
    place = labels.index(target)
    columns = _columns(scorer.network.trained, Path(labelled), columns, form)
    examples = read_examples(Path(labelled), columns, rejects, form=form)
    for line in rejects.notes():
        console.print(line, highlight=False, soft_wrap=True, markup=False)
    examples = for_model(examples, kind, labels, rejects)
    truth, scores = [], []
    with ReadProgress(console, "scoring", unit="documents") as progress:
        for start in range(0, len(examples), AT_ONCE):
            part = examples[start : start + AT_ONCE]
            pairs = None if part[0].pair is None else [one.pair or "" for one in part]
            tokens = scorer.encode([one.text for one in part], pairs)
            empty = set(tokens.empty)
            for one in (part[number] for number in tokens.empty):
                rejects.documents -= 1
                rejects.reject(one.file, one.line, "empty: the tokenizer finds no token", one.text, one.ids)
            part = [one for number, one in enumerate(part) if number not in empty]
            encoded = encode_labels(part, kind, labels)
            truth.append(encoded == place if kind == "single_label" else encoded[:, place] > 0)
            values = scorer.score(tokens).values
            assert values is not None
            scores.append(values[:, place])
            progress.reached(min((start + AT_ONCE) / len(examples), 1.0))
            progress.add(len(part))
    if not truth:
        raise ValueError(f"{labelled}: none of its rows can be used; {rejects.first}")
    rejects.finish()
    return np.concatenate(truth), np.concatenate(scores)


def _columns(trained: TrainedInputs, path: Path, asked: Columns, form: Form) -> Columns:
    """The columns asked for; where none is, those that the model was trained on, if they are there."""
    if trained.texts is None or not path.is_file() or file_format(path) is None:
        return asked
    wanted = columns_to_score(trained, [Input.of(path, form=form)], asked.text, asked.pair, ())
    text = wanted.texts if wanted.more else wanted.text
    return replace(asked, text=text, pair=wanted.pair)


def _share(count: int, whole: int) -> dict[str, float]:
    low, high = wilson_interval(count, whole)
    return {"value": count / whole, "low": low, "high": high}


def _conclude(facts: dict[str, Any], reading: Reading, output: Path, console: Console) -> None:
    documents, target = facts["documents"], facts["target"]
    rows, share = documents["rows"], documents["positives"] / documents["rows"]
    console.print(
        f"{rows:,} documents, {documents['positives']:,} of them {target}; {documents['rejected']:,} rejected. AUROC "
        f"{facts['auroc']:.4f}, Brier score {facts['brier']:.4f}, calibration error {facts['calibration_error']:.4f}"
    )
    for name in ("precision", "recall"):
        found = facts[name]
        console.print(f"{name} {found['value']:.4f} (95% interval {found['low']:.4f} to {found['high']:.4f})")
    console.print(
        f"threshold {facts['threshold']:.7f}: {facts['flagged']:,} flagged. It was chosen on these documents, and the "
        f"precision is that of a stream of which {share:.1%} is {target}"
    )
    if documents["rejected"]:
        console.print(f"rejected, each with its reason: {output.parent / f'{output.name}-rejects.jsonl'}")
    console.print(f"facts and two plots in {output}: {FACTS}, {RELIABILITY}, {THRESHOLDS}")
    options = [*("--model", reading.model), *("--queue", str(output))]
    for name, default in (("max_length", None), ("long", "truncate"), ("pool", "mean"), ("dtype", "float32")):
        if (value := getattr(reading, name)) != default:
            options += [f"--{name.replace('_', '-')}", str(value)]
    console.print(f"next: {shlex.join(['linformers', 'score', *options])} --input DOCUMENTS --output FOLDER")
