"""The first section of the page: a trained encoder made linear, beside itself."""

from typing import Any

from markupsafe import Markup

from linformers.report import plots, words
from linformers.report.cost import cost_table, headlines, time_chart
from linformers.report.document import Chart, Section, Table
from linformers.report.words import Results

Conversion = dict[str, Any]
LABELS = {"linformer": "linearised", "transformer": "softmax"}  # of the models whose cost is measured
_POSITIONS = {
    "tile": "positions beyond {window} repeat those before",
    "interpolate": "the teacher's {window} positions are stretched over the new length",
}


def section(results: Results) -> Section:
    """How the linearised model compares with its teacher, in quality and cost."""
    conversion = results["conversion"]
    cells = conversion["cost"]["cells"]
    return Section(
        title="A trained model made linear",
        blocks=[
            _what_it_is(conversion),
            f"Which of {conversion['books']} books is a passage of {conversion['tokens']:,} tokens from? A logistic "
            f"regression answers, from the embeddings of {conversion['train']} passages; it is asked about "
            f"{conversion['held_out']} passages from other parts of the books. All ways of reading get the same ones.",
            accuracy(results),
            _accuracy_chart(conversion["readers"]),
            accuracy_table(conversion),
            Section(
                title="What length costs",
                blocks=[
                    f"One pass over one text, on {conversion['cost']['device']}, against the teacher's own "
                    "architecture with its softmax attention, taken to the same lengths. (In chunks time grows in a "
                    "straight line too, but no word sees those of another chunk.)",
                    cost(conversion),
                    time_chart("conversion-time", cells, LABELS),
                    cost_table(
                        f"One forward pass of {conversion['teacher']}: time and peak memory beyond the model",
                        cells,
                        LABELS,
                    ),
                ],
            ),
        ],
    )


def _what_it_is(conversion: Conversion) -> Markup:
    options, window = conversion["options"], conversion["window"]
    return Markup(
        "{teacher}, a sentence encoder that reads {window} tokens at most, was given attention that is linear in the "
        "length of the text by <code>linformers.to_linformer</code>: {how}. <strong>Nothing was trained:</strong> all "
        "weights are the teacher's, and {positions}, so it has never learned to read that far. {exact} its embeddings "
        "have a cosine of {cosine:.3f} to the teacher's."
    ).format(
        teacher=conversion["teacher"],
        window=window,
        how=_how(options),
        positions=_POSITIONS[options["positions"]].format(window=window),
        exact=_exact(options, window),
        cosine=conversion["fidelity"]["embedding_cosine"],
    )


def _accuracy_chart(readers: list[dict[str, Any]]) -> Chart:
    rows = [
        ("linformer" if reader["name"] == "linearised" else "transformer", reader["label"], reader["accuracy"])
        for reader in readers
    ]
    return Chart(
        name="conversion",
        picture=plots.plot_passages(rows, [reader["interval"] for reader in readers]),
        alt=f"Bars of accuracy: {', '.join(f'{label} {share:.0%}' for _, label, share in rows)}.",
        caption="Held-out passages given to the right book; the lines are 95% intervals.",
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


def facts(conversion: Conversion) -> list[tuple[str, str, str]]:
    """The headline numbers."""
    ours, chunks, truncated = (reader(conversion, name) for name in ("linearised", "chunks", "truncated"))
    name = f"{conversion['teacher']}, linearised"
    quality = (
        f"{name}: passages of {conversion['tokens']:,} tokens given to the right book",
        f"{ours['accuracy']:.0%}",
        f"teacher on the first {conversion['window']} tokens {truncated['accuracy']:.0%}, over chunks "
        f"{chunks['accuracy']:.0%}",
    )
    return [quality, *headlines(name, conversion["cost"]["cells"], LABELS)]


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


def accuracy_table(conversion: Conversion) -> Table:
    """Each way of reading: how often it is right, and what a passage takes (median)."""
    readers = conversion["readers"]
    rows = []
    for one in readers:
        low, high = one["interval"]
        rows.append((one["label"], f"{one['accuracy']:.1%}", f"{low:.0%} to {high:.0%}", words.seconds(one["seconds"])))
    return Table(
        caption=f"{conversion['teacher']} on {conversion['held_out']:,} held-out passages of {conversion['tokens']:,} "
        f"tokens, after {conversion['train']:,} for the logistic regression",
        head=["way of reading", "right book", "95% interval", "a passage takes"],
        rows=rows,
        highlight=[number for number, one in enumerate(readers) if one["name"] == "linearised"],
    )
