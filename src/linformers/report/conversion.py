"""The first section of the page: a trained encoder that reads long passages, beside what people do with it instead."""

from typing import Any

from markupsafe import Markup

from linformers.report import plots, words
from linformers.report.cost import cost_table, headlines, time_chart
from linformers.report.document import Chart, Section, Table
from linformers.report.words import Results

Conversion = dict[str, Any]
LABELS = {"linformer": "linearised", "transformer": "softmax"}  # of the models whose cost is measured


def section(results: Results) -> Section:
    """How the linearised model compares with its teacher, in quality and cost."""
    conversion = results["conversion"]
    cells = conversion["cost"]["cells"]
    return Section(
        title="A trained model made linear",
        blocks=[
            _what_it_is(conversion),
            f"From which of {conversion['passages']} passages of {conversion['tokens']:,} tokens, out of "
            f"{conversion['books']} books, is a sentence? Its vector is compared with those of the parts of each "
            "passage; the nearest part decides. All ways of reading get the same passages and sentences.",
            finding(results),
            _chart(conversion["readers"]),
            finding_table(conversion),
            Section(
                title="What length costs",
                blocks=[
                    f"One pass over one text, on {conversion['cost']['device']}, against the same encoder with its "
                    "softmax attention, taken to the same lengths.",
                    cost(conversion),
                    time_chart("conversion-time", cells, LABELS),
                    cost_table(f"One forward pass of {conversion['teacher']}", cells, LABELS),
                ],
            ),
        ],
    )


def _what_it_is(conversion: Conversion) -> Markup:
    return Markup(
        "{teacher}, a sentence encoder that reads {window} tokens at most, was made linear in the length of the text, "
        "in its own class, by <code>linformers.linearise</code>: it reads in segments of {segment} tokens, each of "
        "which sees the rest of the text as {slots} summaries that weigh less. <strong>Nothing was trained:</strong> "
        "all weights are the teacher's. <code>linformers adapt</code> trains it on plain text, in minutes, and then it "
        "finds much more."
    ).format(
        teacher=conversion["teacher"],
        window=conversion["window"],
        segment=conversion["options"]["segment_length"],
        slots=conversion["options"]["projected_dim"],
    )


def _chart(readers: list[dict[str, Any]]) -> Chart:
    rows = [
        ("linformer" if reader["name"] == "linearised" else "transformer", reader["label"], reader["found"])
        for reader in readers
    ]
    return Chart(
        name="conversion",
        picture=plots.plot_passages(rows, [reader["interval"] for reader in readers], "sentences found"),
        alt=f"Bars of sentences found: {', '.join(f'{label} {share:.0%}' for _, label, share in rows)}.",
        caption="Sentences whose own passage is the nearest; the lines are 95% intervals.",
    )


def facts(conversion: Conversion) -> list[tuple[str, str, str]]:
    """The headline numbers."""
    ours, chunks, truncated = (reader(conversion, name) for name in ("linearised", "chunks", "truncated"))
    name = f"{conversion['teacher']}, linearised"
    quality = (
        f"{name}: sentences found in passages of {conversion['tokens']:,} tokens",
        f"{ours['found']:.0%}",
        f"teacher on the first {conversion['window']} tokens {truncated['found']:.0%}, over chunks "
        f"{chunks['found']:.0%}",
    )
    return [quality, *headlines(name, conversion["cost"]["cells"], LABELS)]


def reader(conversion: Conversion, name: str) -> dict[str, Any]:
    """One of the ways of reading a passage."""
    return next(reader for reader in conversion["readers"] if reader["name"] == name)


def finding(results: Results) -> str:
    """Which way of reading finds most, and what each takes."""
    conversion = results["conversion"]
    ours, chunks, short = (reader(conversion, name) for name in ("linearised", "chunks", "short"))
    said = [
        f"The linearised model reads a passage at once and finds {ours['found']:.0%} of {conversion['sentences']} "
        f"sentences; {chunks['label']} finds {chunks['found']:.0%}, {short['label']} {short['found']:.0%}."
    ]
    for one in (chunks, short):
        low, high = conversion["gain"][one["name"]]
        size = one["label"].rsplit(" ", 1)[-1]
        if not results["fast"]:
            how = "more than in" if low > 0 else "less than in" if high < 0 else "not clearly different from"
            said.append(f"That is {how} chunks of {size} (difference {low:+.0%} to {high:+.0%}, 95% interval).")
    ratio = words.times(ours["seconds"] / chunks["seconds"], "less", "more")
    said.append(
        f"A passage takes it {words.seconds(ours['seconds'])}, and {chunks['label'].removeprefix('teacher, ')} "
        f"{words.seconds(chunks['seconds'])} ({ratio})."
    )
    said.append(
        f"Counting words (TF-IDF) finds {conversion['words']:.0%}: what is asked for stands in the passage word by "
        "word. Vectors are for questions in other words."
    )
    return " ".join(said)


def cost(conversion: Conversion) -> str:
    """How time grows."""
    cells = conversion["cost"]["cells"]
    ours, softmax = words.longest_common(cells)
    text = (
        f"A pass over {ours['length']:,} tokens takes the linear model {words.seconds(ours['seconds'])}, and softmax "
        f"attention {words.seconds(softmax['seconds'])}."
    )
    if slower := words.slower_lengths(cells):
        text += f" Up to {max(slower):,} tokens softmax is the faster one: keep the teacher there."
    return text


def finding_table(conversion: Conversion) -> Table:
    """Each way of reading: sentences found, vectors that it keeps, and what a passage takes (median)."""
    readers, rows = conversion["readers"], []
    for one in readers:
        low, high = one["interval"]
        found = (f"{one['found']:.1%}", f"{low:.0%} to {high:.0%}" if low < high else "none: all resamples alike")
        rows.append((one["label"], *found, f"{one['vectors']:.0f}", words.seconds(one["seconds"])))
    rows.append(("words: TF-IDF", f"{conversion['words']:.1%}", "", "", ""))
    return Table(
        caption=f"{conversion['teacher']}, untrained: {conversion['sentences']:,} sentences looked for in "
        f"{conversion['passages']:,} passages of {conversion['tokens']:,} tokens",
        head=["way of reading", "found", "95% interval", "vectors", "a passage takes"],
        rows=rows,
        highlight=[number for number, one in enumerate(readers) if one["name"] == "linearised"],
    )
