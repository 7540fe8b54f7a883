"""Verdicts against figures whose answer is known, and against what is committed."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from linformers.reproduce import claims
from linformers.reproduce.scales import load_scale
from linformers.reproduce.table2 import about_rows

RESULTS = Path(__file__).parents[3] / "results"
COMPARE = {
    "softmax": "softmax",
    "control": "control",
    "quarter": "k64",
    "unshared": "none",
    "layerwise": "layer",
    "dims": {32: "k32", 64: "k64"},
    "lengths": {256: "k64", 512: "n512"},
}


def runs(**perplexities: float | tuple[float, ...]) -> dict[str, Any]:
    """Cells by name; further seeds of one are ``name-seed1`` and so on."""
    cells = {}
    for name, values in perplexities.items():
        for seed, value in enumerate(values if isinstance(values, tuple) else (values,)):
            cells[name if seed == 0 else f"{name}-seed{seed}"] = {"perplexity": value}
    return cells


def verdicts(cells: dict[str, Any]) -> dict[str, str]:
    return {one.claim: one.verdict for one in claims.of_figure3(cells, COMPARE)}


GOOD: dict[str, Any] = {"softmax": (10.0, 10.1, 9.9), "control": (30.0, 30.1), "k64": 10.1, "k32": 14.0}
MORE: dict[str, Any] = {"none": 10.0, "layer": 9.9, "n512": 10.0}


def test_claims_of_figure_3_follow_the_figures() -> None:
    assert verdicts(runs(**GOOD, **MORE)) == {"a": "held", "b": "held", "c": "held", "d": "held"}
    worse = runs(**{**GOOD, **MORE, "k64": 13.0, "k32": 12.0, "layer": 12.0, "n512": 15.0})
    assert verdicts(worse) == {"a": "not held", "b": "not held", "c": "not held", "d": "not held"}
    near = runs(**{**GOOD, **MORE, "k64": 10.5, "layer": 10.4})
    assert verdicts(near) == {"a": "not decidable", "b": "held", "c": "not decidable", "d": "held"}


def test_where_nothing_is_learned_nothing_is_decided() -> None:
    names = ("softmax", "k64", "k32", "none", "layer", "n512")
    same = runs(**dict.fromkeys(names, 30.0), control=(30.0, 30.1, 29.9))
    assert set(verdicts(same).values()) == {"not decidable"}
    assert all("without attention" in one.why for one in claims.of_figure3(same, COMPARE))


def test_without_seeds_nothing_is_decided() -> None:
    single = {name: cell for name, cell in runs(**GOOD, **MORE).items() if "seed" not in name}
    found = claims.of_figure3(single, COMPARE)
    assert {one.verdict for one in found} == {"not decidable"} and math.isnan(found[0].low)
    kept = claims.as_dicts(found, decides=True)
    assert kept[0]["low"] is None and "NaN" not in json.dumps(kept)
    assert claims.from_dict(kept[0]).row() == found[0].row()


def test_intervals_of_perplexity_are_those_of_a_t_test() -> None:
    rng = np.random.default_rng(0)
    a, b = np.exp(rng.normal(2, 0.1, (2, 4)))
    value, low, high = claims.Perplexities(runs(a=tuple(a), b=tuple(b))).better_by("a", "b")
    expected = stats.ttest_ind(np.log(b), np.log(a)).confidence_interval(0.95)
    assert value == pytest.approx(np.log(b).mean() - np.log(a).mean())
    assert (low, high) == pytest.approx((expected.low, expected.high))


def accuracies(values: dict[str, np.ndarray]) -> dict[str, Any]:
    """Cells of Table 2 of which rows are right."""
    cells = {}
    for name, right in values.items():
        half = 1.96 * right.std() / math.sqrt(len(right))
        metric = {"value": right.mean(), "low": right.mean() - half, "high": right.mean() + half}
        labels = np.arange(len(right)) % 2
        cells[name] = {"metrics": {"accuracy": metric}, **about_rows(labels, np.where(right, labels, 1 - labels))}
    return cells


STATES = ("converted", "distilled")


def test_differences_of_accuracy_are_paired() -> None:
    rng = np.random.default_rng(0)
    teacher = rng.random(2000) < 0.9
    student = teacher ^ (rng.random(2000) < 0.01)
    cells = accuracies({"teacher": teacher, "k = 128, distilled": student})
    value, error = claims.difference(cells["k = 128, distilled"], cells["teacher"])
    apart = student.astype(float) - teacher
    assert (value, error) == pytest.approx((apart.mean(), apart.std() / math.sqrt(2000)))
    for cell in cells.values():
        cell.pop("correct")
    unpaired = claims.difference(cells["k = 128, distilled"], cells["teacher"])
    assert unpaired[0] == pytest.approx(value) and unpaired[1] > 2 * error


def test_claims_of_table_2_follow_the_figures() -> None:
    rng = np.random.default_rng(1)
    teacher = rng.random(4000) < 0.9
    worse = teacher & (rng.random(4000) < 0.95)
    tasks = {
        "imdb": accuracies({"teacher": teacher, "k = 128, distilled": teacher, "k = 64, distilled": worse}),
        "sst2": accuracies({"teacher": teacher, "k = 128, distilled": worse}),  # there n = k
    }
    sizes = {"imdb": {"max_length": 512}, "sst2": {"max_length": 128}}
    found = {one.claim: one for one in claims.of_table2(tasks, sizes)}
    assert found["a"].verdict == "held" and "(imdb)" in found["a"].what
    assert found["b"].verdict == "held" and set(found) == {"a", "b"}
    tasks["imdb"]["k = 128, distilled"] = tasks["sst2"]["k = 128, distilled"]
    assert claims.of_table2(tasks, sizes)[0].verdict == "not held"

    forms = {f"linear, {form}, k = 128, {state}": teacher for form in ("none", "layerwise") for state in STATES}
    alike = {one.claim: one for one in claims.of_table2({"imdb": accuracies({"teacher": teacher, **forms})}, sizes)}
    assert alike["c"].verdict == "not decidable" and "distilled against" in alike["c"].what
    forms["linear, layerwise, k = 128, distilled"] = teacher ^ (rng.random(4000) < 0.005)
    apart = {one.claim: one for one in claims.of_table2({"imdb": accuracies({"teacher": teacher, **forms})}, sizes)}
    assert apart["c"].verdict == "held"

    chance = np.arange(400) % 2 == 0
    lost = {"imdb": accuracies({"teacher": chance, "k = 128, distilled": chance})}
    assert "commonest label" in claims.of_table2(lost, sizes)[0].why


def test_pretrained_encoders_are_compared_by_their_names() -> None:
    rng = np.random.default_rng(2)
    right = rng.random(3000) < 0.9
    names = ("RoBERTa-base", "k = 128", "k = 128, shared kv, shared layer", "k = 256", "n = 1024, k = 256")
    tasks = {task: accuracies(dict.fromkeys(names, right)) for task in ("imdb", "qqp")}
    found = claims.of_table2(tasks, {task: {"max_length": 512} for task in tasks})
    assert {one.claim: one.what for one in found} == {
        "a": "k = 128 against RoBERTa-base (imdb, qqp)",
        "b": "k = 256 against k = 128 (imdb, qqp)",
        "c": "k = 128, shared kv, shared layer against k = 128 (imdb, qqp)",
        "d": "n = 1024, k = 256 against k = 256 (imdb, qqp)",
    }


def trend(**values: float) -> dict[str, Any]:
    return {"model, text": {"higher_layers_have_lower_rank": {"correlation": -0.5, "p_value": 0.01, **values}}}


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (trend(low=-0.7, high=-0.3), "held"),
        (trend(low=0.1, high=0.5), "not held"),
        (trend(low=-0.5, high=0.1), "not decidable"),
        (trend(low=-0.7, high=-0.3, p_value=0.2), "not decidable"),
    ],
)
def test_claim_e(found: dict[str, Any], verdict: str) -> None:
    assert [one.verdict for one in claims.of_figure1(found)] == [verdict]


def test_growth_and_claim_f() -> None:
    lengths, noise = (64, 128, 256, 512, 1024, 2048), (1.0, 1.02, 0.99, 1.01, 1.0, 0.98)
    rows = [{"length": n, "seconds": x * n**1.0, "problem": ""} for n, x in zip(lengths, noise, strict=True)]
    found = claims.growth(rows)
    line = stats.linregress(np.log(lengths[3:]), np.log([row["seconds"] for row in rows[3:]]))
    assert found is not None and found[0] == pytest.approx(line.slope)
    assert found[2] - found[0] == pytest.approx(stats.t.ppf(0.975, 1) * line.stderr)
    assert claims.growth(rows[:2]) is None
    exponents = {"linformer k=8": (1.0, 0.95, 1.05), "linformer k=9": (1.5, 1.4, 1.6), "softmax-eager": (2.0, 1.9, 2.1)}
    assert [one.verdict for one in claims.of_figure2(exponents)] == ["held", "not held"]


@pytest.mark.parametrize(("share", "verdict"), [(1.2, "held"), (0.4, "not held")])
def test_claim_f_by_table_3(share: float, verdict: str) -> None:
    published = {(512, 128): (1.5, 1.7), (1024, 128): (1.7, 3.0), (2048, 128): (2.6, 6.1)}
    rows = [
        {"n": n, "k": k, "time_saved_eager": share * a, "memory_saved_eager": share * b}
        | {"time_saved_sdpa": None, "memory_saved_sdpa": None}
        for (n, k), (a, b) in published.items()
    ]
    found = claims.of_table3(rows)
    assert [one.verdict for one in found] == [verdict, verdict]
    assert found[0].value == pytest.approx(share) and found[0].low == pytest.approx(share)


def test_overall() -> None:
    def of(*kinds: Any) -> str:
        one = claims.of_figure1(trend(low=-0.7, high=-0.3))[0]
        return claims.overall([claims.Evidence(**{**vars(one), "verdict": kind}) for kind in kinds])

    assert of("held", "not decidable") == "held" and of("not held", "held") == "held in part"
    assert of("not decidable") == "not decidable"


def test_committed_results_are_still_read() -> None:
    figure3 = json.loads((RESULTS / "figure3-laptop.json").read_text())["cells"]
    found = claims.of_figure3(figure3, load_scale("laptop").figure3.compare)
    assert {one.claim: one.verdict for one in found} == dict.fromkeys("bcd", "not decidable") | {"a": "not held"}
    table2 = json.loads((RESULTS / "table2-laptop.json").read_text())
    found = claims.of_table2(table2["cells"], table2["sizes"])
    assert {one.claim for one in found} == {"a", "b", "c"}
    assert found[0].value == pytest.approx(0.002) and "(imdb)" in found[0].what
