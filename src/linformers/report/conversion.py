"""The first section of the page: a trained encoder made linear, beside itself."""

from importlib import resources
from string import Template
from typing import Any

from linformers.report import markup, plots, words
from linformers.report.tables import cost_table
from linformers.report.words import Results

Conversion = dict[str, Any]
LABELS = {"linformer": "linearised", "transformer": "softmax"}  # of the models whose cost is measured
_POSITIONS = {
    "tile": "positions beyond {window} repeat those before",
    "interpolate": "the teacher's {window} positions are stretched over the new length",
}


def draw(conversion: Conversion) -> dict[str, plots.Figure]:
    """The plots of the section, by the names of their files."""
    rows = [
        ("linformer" if reader["name"] == "linearised" else "transformer", reader["label"], reader["accuracy"])
        for reader in conversion["readers"]
    ]
    cells = conversion["cost"]["cells"]
    return {
        "conversion": plots.plot_passages(rows, [reader["interval"] for reader in conversion["readers"]]),
        "conversion-time": plots.plot_cost(cells, LABELS, "seconds", 1, "seconds for one pass"),
    }


def section(results: Results, figures: dict[str, plots.Figure]) -> str:
    """The section as HTML."""
    conversion = results["conversion"]
    options, window = conversion["options"], conversion["window"]
    ours, softmax = words.longest_common(conversion["cost"]["cells"])
    shares = ", ".join(f"{reader['label']} {reader['accuracy']:.0%}" for reader in conversion["readers"])
    captions = {
        "conversion": (
            f"Bars of accuracy: {markup.escape(shares)}.",
            "Held-out passages given to the right book; the lines are 95% intervals.",
        ),
        "conversion-time": (
            f"Two lines of time up to {ours['length']:,} tokens. At the end: linearised "
            f"{words.seconds(ours['seconds'])}, softmax {words.seconds(softmax['seconds'])}.",
            "Time of one forward pass. Both axes are logarithmic: a steeper line grows faster.",
        ),
    }
    shown = {
        name: markup.figure(plots.to_svg(figures[name], name, alt, name), caption)
        for name, (alt, caption) in captions.items()
    }
    return Template((resources.files("linformers.report") / "conversion.html").read_text(encoding="utf-8")).substitute(
        teacher=markup.escape(conversion["teacher"]),
        window=window,
        how=_how(options),
        exact=_exact(options, window),
        positions=_POSITIONS[options["positions"]].format(window=window),
        cosine=f"{conversion['fidelity']['embedding_cosine']:.3f}",
        books=conversion["books"],
        tokens=f"{conversion['tokens']:,}",
        train=conversion["train"],
        held_out=conversion["held_out"],
        accuracy_verdict=markup.escape(accuracy(results)),
        accuracy_plot=shown["conversion"],
        accuracy_table=_accuracy_table(conversion),
        device=markup.escape(conversion["cost"]["device"]),
        cost_verdict=markup.escape(cost(conversion)),
        cost_plot=shown["conversion-time"],
        cost_table=cost_table(
            conversion["cost"]["cells"],
            f"One forward pass of {conversion['teacher']}: time and peak memory beyond the model",
            ours=LABELS["linformer"],
            softmax=LABELS["transformer"],
        ),
    )


def _how(options: dict[str, Any]) -> str:
    """What a token sees, in words."""
    width, first = options["local_window"], options["global_tokens"]
    seen = [f"{options['projected_dim']} summaries of the text"]
    if width:
        seen.append(f"{width} exact neighbours on each side")
    if first:
        seen.append("the first token, which sees all" if first == 1 else f"the first {first} tokens, which see all")
    return f"a token sees {' and '.join(filter(None, [', '.join(seen[:-1]), seen[-1]]))}"


def _exact(options: dict[str, Any], window: int) -> str:
    """How the model reads texts as short as its teacher's, and how those were read whose cosine follows."""
    exact = options.get("exact_length", 0)  # runs before there was one have none
    if not exact:
        return f"On texts of {window} tokens"
    return (
        f"Texts of up to {exact:,} tokens are read by softmax attention itself, as the teacher reads "
        f"them. Where texts of {window} tokens are read through the summaries all the same,"
    )


def facts(conversion: Conversion) -> list[str]:
    """The headline numbers."""
    ours, chunks, truncated = (reader(conversion, name) for name in ("linearised", "chunks", "truncated"))
    linear, softmax = words.longest_common(conversion["cost"]["cells"])
    name = f"{conversion['teacher']}, linearised"
    return [
        markup.fact(
            f"{name}: passages of {conversion['tokens']:,} tokens given to the right book",
            f"{ours['accuracy']:.0%}",
            f"teacher on the first {conversion['window']} tokens {truncated['accuracy']:.0%}, over chunks "
            f"{chunks['accuracy']:.0%}",
        ),
        markup.fact(
            f"{name}: time for {linear['length']:,} tokens",
            words.times(linear["seconds"] / softmax["seconds"], "less", "more"),
            f"{words.seconds(linear['seconds'])}, with softmax {words.seconds(softmax['seconds'])}",
        ),
    ]


def reader(conversion: Conversion, name: str) -> dict[str, Any]:
    """One of the ways of reading a passage."""
    return next(reader for reader in conversion["readers"] if reader["name"] == name)


def accuracy(results: Results) -> str:
    """Which way of reading tells books apart best, and what each takes."""
    from scipy.stats import binomtest

    conversion = results["conversion"]
    ours, chunks, truncated = (reader(conversion, name) for name in ("linearised", "chunks", "truncated"))
    gained, lost = conversion["only_right"]["linearised"], conversion["only_right"]["chunks"]
    first = (
        f"The linearised model reads a passage whole and is right on {ours['accuracy']:.1%} (95% interval: "
        f"{ours['interval'][0]:.0%} to {ours['interval'][1]:.0%}). The teacher is right on {truncated['accuracy']:.1%} "
        f"from the first {conversion['window']} tokens, and on {chunks['accuracy']:.1%} where it reads the passage in "
        "chunks and their embeddings are averaged."
    )
    if results["fast"]:
        second = "A fast run has too few passages to tell them apart."
    elif gained + lost == 0 or binomtest(gained, gained + lost).pvalue > 0.05:
        second = (
            "Between whole and in chunks there is no clear difference: of the passages, only the first is right on "
            f"{gained}, only the second on {lost}."
        )
    else:
        second = f"So reading whole is {'better' if gained > lost else 'worse'} here than reading in chunks."
    ratio = words.times(ours["seconds"] / chunks["seconds"], "less", "more")
    third = (
        f"A passage takes it {words.seconds(ours['seconds'])}, and the chunks {words.seconds(chunks['seconds'])} "
        f"({ratio}). Counting words (TF-IDF and logistic regression) reaches {conversion['tfidf']:.1%} on the same "
        "passages."
    )
    return f"{first} {second} {third}"


def cost(conversion: Conversion) -> str:
    """How time grows."""
    cells = conversion["cost"]["cells"]
    ours, softmax = words.longest_common(cells)
    text = (
        f"A pass over {ours['length']:,} tokens takes the linear model {words.seconds(ours['seconds'])}, and softmax "
        f"attention {words.seconds(softmax['seconds'])}."
    )
    slower = [n for n in words.slower_lengths(cells) if n > conversion["options"].get("exact_length", 0)]
    if slower:
        text += f" Up to {max(slower):,} tokens softmax is the faster one: keep the teacher there."
    return text


def _accuracy_table(conversion: Conversion) -> str:
    return markup.table(
        f"Accuracy on {conversion['held_out']:,} held-out passages of {conversion['tokens']:,} tokens, after "
        f"{conversion['train']:,} for the logistic regression; time of one passage (median)",
        ["way of reading", "accuracy", "95% interval", "time"],
        [
            (
                reader["label"],
                f"{reader['accuracy']:.1%}",
                f"{reader['interval'][0]:.0%} to {reader['interval'][1]:.0%}",
                words.seconds(reader["seconds"]),
            )
            for reader in conversion["readers"]
        ],
        highlight=[number for number, reader in enumerate(conversion["readers"]) if reader["name"] == "linearised"],
    )
