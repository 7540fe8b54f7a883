"""Whether the paper's claims held: a statistic, its 95% interval, and a rule that was fixed before measuring.

"On par" allows what the paper itself takes for it: one point of accuracy, or 5 % of perplexity. A claim holds if the
whole interval is on the right side of that margin, does not hold if all of it is on the wrong side, and cannot be
decided otherwise, nor where nothing was learned that a model without attention does not know.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from scipy import stats

from linformers.reproduce.published import MEMORY, TIME, saved

Verdict = Literal["held", "not held", "not decidable"]
Cells = Mapping[str, Mapping[str, Any]]
POINT, PERPLEXITY = 0.01, math.log(1.05)
SAVED_SHARE, LINEAR = 2 / 3, 1.1  # of what the paper saves; the exponent that counts as linear


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What one comparison says about a claim; ``low`` to ``high`` is the 95% interval of ``value``."""

    claim: str
    what: str
    statistic: str
    value: float
    low: float
    high: float
    verdict: Verdict
    why: str

    def row(self) -> tuple[str, ...]:
        """For tables."""
        interval = "-" if math.isnan(self.low) else f"{self.low:.3g} to {self.high:.3g}"
        return f"({self.claim})", self.what, self.verdict, self.statistic, f"{self.value:.3g}", interval, self.why


HEAD = ("claim", "compared", "verdict", "statistic", "value", "95% interval", "because")


def judge(low: float, high: float, limit: float) -> Verdict:
    """Of a statistic that should be above a limit."""
    return "held" if low > limit else "not held" if high < limit else "not decidable"


def overall(evidence: Sequence[Evidence]) -> str:
    """All that was found about a claim, in a word."""
    decided = {one.verdict for one in evidence} - {"not decidable"}
    return "not decidable" if not decided else decided.pop() if len(decided) == 1 else "held in part"


# --- figure 1


def of_figure1(cells: Cells) -> list[Evidence]:
    """(e), by the correlation of a head's effective rank with its layer."""
    found = []
    for name, cell in cells.items():
        trend = cell["higher_layers_have_lower_rank"]
        sure = trend["p_value"] < 0.05
        found.append(
            Evidence(
                claim="e",
                what=name,
                statistic="Spearman's correlation of effective rank and layer",
                value=trend["correlation"],
                low=trend["low"],
                high=trend["high"],
                verdict=judge(-trend["high"], -trend["low"], 0.0) if sure else "not decidable",
                why=f"below 0 = lower rank in higher layers; p = {trend['p_value']:.2g} over assignments of heads",
            )
        )
    return found


# --- figure 2 and table 3


def growth(rows: Sequence[Mapping[str, Any]]) -> tuple[float, float, float] | None:
    """The e of time ~ n^e over the longer half of the lengths, with its interval; None with fewer than 3 of them."""
    done = sorted((row["length"], row["seconds"]) for row in rows if not row["problem"])
    done = done[-max(3, (len(done) + 1) // 2) :]
    if len(done) < 3:
        return None
    n, seconds = np.log(np.array(done)).T
    line: Any = stats.linregress(n, seconds)
    half = stats.t.ppf(0.975, len(done) - 2) * line.stderr
    return float(line.slope), float(line.slope - half), float(line.slope + half)


def of_figure2(exponents: Mapping[str, Sequence[float]]) -> list[Evidence]:
    """(f), by how time grows."""
    return [
        Evidence(
            claim="f",
            what=f"{name}: time against n",
            statistic="exponent of n",
            value=value,
            low=low,
            high=high,
            verdict=judge(-high, -low, -LINEAR),
            why=f"linear counts as at most {LINEAR}",
        )
        for name, (value, low, high) in exponents.items()
        if name.startswith("linformer")
    ]


def of_table3(rows: Sequence[Mapping[str, Any]]) -> list[Evidence]:
    """(f), by the cells of the table that the paper has too."""
    found = []
    for what, table in (("time", TIME), ("memory", MEMORY)):
        for against in ("eager", "sdpa"):
            pairs = [
                (row[f"{what}_saved_{against}"], theirs)
                for row in rows
                if (theirs := saved(table, row["n"], row["k"])) and row[f"{what}_saved_{against}"]
            ]
            if not pairs:
                continue
            logs = np.log([ours / theirs for ours, theirs in pairs])
            draws = np.random.default_rng(0).integers(len(logs), size=(2000, len(logs)))
            low, high = np.exp(np.percentile(logs[draws].mean(1), [2.5, 97.5]))
            more = sum(ours > 1 for ours, _ in pairs)
            softmax = "written out, as in the paper" if against == "eager" else "fused, which the paper did not have"
            found.append(
                Evidence(
                    claim="f",
                    what=f"{what} saved against softmax {softmax}",
                    statistic=f"geometric mean of ours / published over {len(pairs)} cells",
                    value=float(np.exp(logs.mean())),
                    low=float(low),
                    high=float(high),
                    verdict=judge(low, high, SAVED_SHARE) if len(pairs) > 2 else "not decidable",
                    why=f"at least two thirds of what the paper saves; {more} of {len(pairs)} cells save something",
                )
            )
    return found


# --- figure 3


class Perplexities:
    """Final perplexities, and the noise between seeds, pooled over the cells that have several."""

    def __init__(self, cells: Cells) -> None:
        self.logs: dict[str, list[float]] = {}
        for name, cell in cells.items():
            self.logs.setdefault(name.partition("-seed")[0], []).append(math.log(cell["perplexity"]))
        groups = [np.array(values) for values in self.logs.values() if len(values) > 1]
        self.freedom: int = sum(len(group) - 1 for group in groups)
        squares = sum(float(((group - group.mean()) ** 2).sum()) for group in groups)
        self.deviation: float = math.sqrt(squares / self.freedom) if self.freedom else math.nan

    def mean(self, name: str) -> float:
        """Logarithm, over seeds."""
        return float(np.mean(self.logs[name]))

    def half_width(self, variance: float) -> float:
        """Of an interval, for a variance in units of that of a seed; not known without seeds."""
        return (
            float(stats.t.ppf(0.975, self.freedom)) * self.deviation * math.sqrt(variance) if self.freedom else math.nan
        )

    def better_by(self, name: str, other: str) -> tuple[float, float, float]:
        """Logarithm of how many times lower the perplexity of ``name`` is, with its interval."""
        value = self.mean(other) - self.mean(name)
        half = self.half_width(1 / len(self.logs[name]) + 1 / len(self.logs[other]))
        return value, value - half, value + half


def of_figure3(cells: Cells, compare: Mapping[str, Any]) -> list[Evidence]:
    """(a) to (d); ``compare`` names the cells, see ``Figure3Scale``."""
    found = Perplexities(cells)
    control = compare.get("control")

    def there(*names: str) -> bool:
        return all(name in found.logs for name in names)

    def evidence(claim: str, what: str, estimate: tuple[float, float, float], limit: float, *names: str) -> Evidence:
        value, low, high = estimate
        verdict, why = judge(low, high, limit), f"above {limit:.3g} = held (the margin is 5 % of perplexity)"
        if limit == 0:
            why = "above 0 = perplexity falls as k grows"
        learned = control is None or any(found.better_by(name, control)[1] > PERPLEXITY for name in names)
        if math.isnan(low):
            verdict, why = "not decidable", "no cell has several seeds, so the noise is not known"
        elif not learned:
            verdict, why = "not decidable", "none of them is clearly better than a model without attention"
        statistic = "ln(perplexity) ratio" if limit else "ln(perplexity) gained for each doubling of k"
        return Evidence(
            claim=claim, what=what, statistic=statistic, value=value, low=low, high=high, verdict=verdict, why=why
        )

    rows = []
    for key, claim, reference in (
        ("quarter", "a", compare.get("softmax")),
        ("layerwise", "c", compare.get("unshared")),
    ):
        name = compare.get(key)
        if name and reference and there(name, reference):
            what = f"{name} against {reference}"
            rows.append(evidence(claim, what, found.better_by(name, reference), -PERPLEXITY, name, reference))
    dims = {int(k): name for k, name in compare.get("dims", {}).items() if there(name)}
    if len(dims) > 1:
        x, counts = np.log2(list(dims)), np.array([len(found.logs[name]) for name in dims.values()])
        centred = x - np.average(x, weights=counts)
        spread = float((counts * centred**2).sum())
        slope = -float((counts * centred * [found.mean(name) for name in dims.values()]).sum()) / spread
        half = found.half_width(1 / spread)
        what = f"k = {', '.join(map(str, dims))}"
        rows.append(evidence("b", what, (slope, slope - half, slope + half), 0.0, *dims.values()))
    lengths = {int(n): name for n, name in compare.get("lengths", {}).items() if there(name)}
    if len(lengths) > 1:
        short, long = lengths[min(lengths)], lengths[max(lengths)]
        what = f"n = {max(lengths):,} against {min(lengths):,} at the same k"
        rows.append(evidence("d", what, found.better_by(long, short), -PERPLEXITY, short, long))
    return sorted(rows, key=lambda one: one.claim)


# --- table 2


def difference(cell: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[float, float]:
    """Accuracy of ``cell`` beyond that of ``other``, with its standard error: of the same rows where they are known."""
    a, b = (one["metrics"]["accuracy"] for one in (cell, other))
    value = a["value"] - b["value"]
    if "correct" in cell and "correct" in other and cell["correct"]["rows"] == other["correct"]["rows"]:
        rows = cell["correct"]["rows"]
        bits = [np.array(list(f"{int(one['correct']['hex'], 16):0{rows}b}"), dtype=np.int8) for one in (cell, other)]
        return value, float((bits[0] - bits[1]).std() / math.sqrt(rows))
    return value, math.hypot(*((one["high"] - one["low"]) / 3.92 for one in (a, b)))


def _accuracy(cell: Mapping[str, Any]) -> float:
    return cell["metrics"]["accuracy"]["value"]


def of_table2(tasks: Mapping[str, Cells], sizes: Mapping[str, Mapping[str, Any]]) -> list[Evidence]:
    """(a) to (d); intervals as if for the mean over the tasks that have both models."""

    def evidence(claim: str, pick: Callable[[str, Cells], tuple[str, str] | None], limit: float) -> Evidence | None:
        pairs = {task: pair for task, cells in tasks.items() if (pair := pick(task, cells)) is not None}
        if not pairs:
            return None
        both = [difference(tasks[task][a], tasks[task][b]) for task, (a, b) in pairs.items()]
        value = sum(one for one, _ in both) / len(both)
        half = 1.96 * math.sqrt(sum(error**2 for _, error in both)) / len(both)
        first = next(iter(pairs.values()))
        margin = "; one point is on par" if limit else ""
        verdict, why = judge(value - half, value + half, limit), f"above {limit:g} = held{margin}"
        better = [max((tasks[task][name] for name in pair), key=_accuracy) for task, pair in pairs.items()]
        if any(cell["metrics"]["accuracy"]["low"] <= cell.get("commonest", 0.0) for cell in better):
            verdict, why = "not decidable", "neither is clearly better than always giving the commonest label"
        elif claim == "c" and value == half == 0:  # all forms of sharing start as the same function
            verdict, why = "not decidable", "training has changed neither: both are right on the same rows"
        return Evidence(
            claim=claim,
            what=f"{first[0]} against {first[1]} ({', '.join(pairs)})",
            statistic="difference of accuracy",
            value=value,
            low=value - half,
            high=value + half,
            verdict=verdict,
            why=why,
        )

    def reference(cells: Cells) -> str | None:
        return next((name for name in ("teacher", "RoBERTa-base") if name in cells), None)

    def length(task: str, name: str) -> int:
        told = re.search(r"n = (\d+)", name)
        return int(told[1]) if told else int(sizes[task]["max_length"])

    def quarter(form: str) -> Callable[[str, Cells], tuple[str, str] | None]:
        def pick(task: str, cells: Cells) -> tuple[str, str] | None:
            other = reference(cells)
            for name in cells:
                k = re.fullmatch(form, name)
                if k and other and 4 * int(k[1]) == length(task, name):
                    return name, other
            return None

        return pick

    def dims(task: str, cells: Cells) -> tuple[str, str] | None:
        found = {int(k[1]): name for name in cells if (k := re.fullmatch(r"k = (\d+)(?:, distilled)?", name))}
        return (found[max(found)], found[min(found)]) if len(found) > 1 else None

    def named(one: str, other: str) -> Callable[[str, Cells], tuple[str, str] | None]:
        def pick(task: str, cells: Cells) -> tuple[str, str] | None:
            trained = [name for name in cells if not name.endswith(", converted")]
            pairs = [(name, name.replace(one, other)) for name in trained if one in name]
            return next(((a, b) for a, b in pairs if b in cells and b != a), None)

        return pick

    tried = [
        evidence("a", quarter(r"k = (\d+)(?:, distilled)?"), -POINT),
        evidence("a", quarter(r"slots only, k = (\d+), distilled"), -POINT),
        evidence("b", dims, 0.0),
        evidence("c", named("linear, layerwise", "linear, none"), -POINT),
        evidence("c", named(", shared kv, shared layer", ""), -POINT),
        evidence("d", named("n = 1024, ", ""), -POINT),
    ]
    return [one for one in tried if one is not None]


def as_dicts(evidence: Sequence[Evidence], decides: bool) -> list[dict[str, Any]]:
    """For JSON; at a scale that decides nothing no verdict stands."""
    rows = [asdict(one) for one in evidence]
    if not decides:
        for row in rows:
            row |= {"verdict": "not decidable", "why": "nothing is learned at this scale"}
    return [{key: None if value != value else value for key, value in row.items()} for row in rows]


def from_dict(row: Mapping[str, Any]) -> Evidence:
    """Back from JSON."""
    numbers = {key: math.nan if row[key] is None else row[key] for key in ("value", "low", "high")}
    return Evidence(**{**row, **numbers})
