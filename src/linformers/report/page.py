"""One self-contained HTML page from the results of a quickstart: no script, nothing fetched, opens offline."""

import math
from importlib import resources
from string import Template

from linformers.report import conversion, markup, plots, words
from linformers.report.tables import cost_table
from linformers.report.words import MEBIBYTE, Results

ACCURACY_LABELS = {"tfidf": "TF-IDF + logistic regression", "linformer": "Linformer", "majority": "commonest book"}


def draw_plots(results: Results) -> dict[str, plots.Figure]:
    """All plots of the page, by the names of their files."""
    labels = {run["name"]: run["label"] for run in results["pretraining"] if run["name"] != "control"}
    cells, accuracy = results["cost"]["cells"], results["passages"]["accuracy"]
    rows = [
        ("linformer" if name == "linformer" else "control", label, accuracy[name])
        for name, label in ACCURACY_LABELS.items()
    ]
    figures = {
        "learning": plots.plot_learning(results["pretraining"], results["settings"]["stages"]),
        "passages": plots.plot_passages(rows),
        "time": plots.plot_cost(cells, labels, "seconds", 1, "seconds for one pass"),
    }
    if any(cell["peak_bytes"] for cell in cells):
        figures["memory"] = plots.plot_cost(cells, labels, "peak_bytes", MEBIBYTE, "MiB beyond the model")
    return figures | (conversion.draw(results["conversion"]) if words.converted(results) else {})


def render(results: Results, figures: dict[str, plots.Figure]) -> str:
    """The whole page as text."""
    task, settings = results["passages"], results["settings"]
    converted = words.converted(results)
    title = "A trained model made linear, and one that learns to read" if converted else "A Linformer learns to read"
    shown = {
        name: markup.figure(plots.to_svg(figures[name], name, alt, name), caption) if name in figures else ""
        for name, (alt, caption) in _captions(results).items()
    }
    body = Template((resources.files("linformers.report") / "page.html").read_text(encoding="utf-8")).substitute(
        title=title,
        lead=markup.escape(_lead(results)),
        facts="\n".join(_facts(results)),
        conversion=_conversion(results, figures),
        slots=settings["projected_dim"],
        window=settings["local_window"],
        learning_verdict=markup.escape(words.learning(results)),
        learning_plot=shown["learning"],
        learning_table=_learning_table(results),
        book_count=len(results["data"]["books"]),
        passage_tokens=f"{task['tokens']:,}",
        passages_verdict=markup.escape(words.passages(results)),
        passages_plot=shown["passages"],
        passages_table=_passages_table(results),
        examples="\n".join(markup.passage(e["text"], e["book"], e["guesses"]) for e in task["examples"]),
        books_table=_books_table(results),
        device=markup.escape(results["cost"]["device"]),
        cost_verdict=markup.escape(words.cost(results)),
        time_plot=shown["time"],
        memory_plot=shown["memory"],
        cost_table=cost_table(results["cost"]["cells"], "One forward pass: time and peak memory beyond the model"),
        next_commands=markup.commands(results["next"]),
        made=markup.definitions(_made(results)),
    )
    return markup.frame(title, body)


def _conversion(results: Results, figures: dict[str, plots.Figure]) -> str:
    if words.converted(results):
        return conversion.section(results, figures)
    return f'<p class="faint">No converted model in this report: {markup.escape(results["conversion"]["skipped"])}.</p>'


def _lead(results: Results) -> str:
    runs = words.by_name(results["pretraining"])
    end = "Here is what each learned, and what it costs."
    if results["fast"]:
        end = "This was a fast run: it shows that every part works, and nothing was learned."
    text = (
        f"In {words.seconds(results['seconds'])}, from {len(results['data']['books'])} books, this machine trained a "
        f"Linformer of {runs['linformer']['parameters']:,} parameters, beside a Transformer of the same shape and a "
        f"control that has no attention. {end}"
    )
    if not words.converted(results):
        return text
    return f"{results['conversion']['teacher']} became linear in the length of the text, without training. {text}"


def _facts(results: Results) -> list[str]:
    runs, accuracy = words.by_name(results["pretraining"]), results["passages"]["accuracy"]
    ours, softmax = words.longest_common(results["cost"]["cells"])
    facts = conversion.facts(results["conversion"]) if words.converted(results) else []
    facts += [
        markup.fact(
            "Small Linformer: perplexity on held-out text (lower is better)",
            f"{words.perplexity(runs['linformer']):.1f}",
            f"Transformer {words.perplexity(runs['transformer']):.1f}, "
            f"without attention {words.perplexity(runs['control']):.1f}",
        ),
        markup.fact(
            "Small Linformer: passages given to the right book",
            f"{accuracy['linformer']:.0%}",
            f"commonest book {accuracy['majority']:.0%}, TF-IDF {accuracy['tfidf']:.0%}",
        ),
        markup.fact(
            f"Small Linformer: time for {ours['length']:,} tokens",
            words.times(ours["seconds"] / softmax["seconds"], "less", "more"),
            f"{words.seconds(ours['seconds'])}, Transformer {words.seconds(softmax['seconds'])}",
        ),
    ]
    if ours["peak_bytes"] and softmax["peak_bytes"]:
        facts.append(
            markup.fact(
                f"Small Linformer: memory for {ours['length']:,} tokens",
                words.times(ours["peak_bytes"] / softmax["peak_bytes"], "less", "more"),
                f"{ours['peak_bytes'] / MEBIBYTE:,.0f} MiB, Transformer {softmax['peak_bytes'] / MEBIBYTE:,.0f} MiB",
            )
        )
    return facts


def _captions(results: Results) -> dict[str, tuple[str, str]]:
    """For each plot: what it shows in full words, for those who cannot see it, and its caption."""
    runs = results["pretraining"]
    ends = ", ".join(f"{run['label']} {math.exp(run['losses'][-1][1]):.1f}" for run in runs)
    accuracy = results["passages"]["accuracy"]
    shares = ", ".join(f"{label} {accuracy[name]:.0%}" for name, label in ACCURACY_LABELS.items())
    ours, softmax = words.longest_common(results["cost"]["cells"])
    lengths = f"from {min(c['length'] for c in results['cost']['cells']):,} to {ours['length']:,} tokens"
    return {
        "learning": (
            f"Lines of training perplexity against training steps. At the end: {markup.escape(ends)}.",
            "Perplexity on the text of the moment, while training. Shades mark the stages of growing sequences; their "
            "lengths in tokens are along the top.",
        ),
        "passages": (f"Bars of accuracy: {markup.escape(shares)}.", "Held-out passages given to the right book."),
        "time": (
            f"Two lines of time {lengths}. At the end: Linformer {words.seconds(ours['seconds'])}, Transformer "
            f"{words.seconds(softmax['seconds'])}.",
            "Time of one forward pass. Both axes are logarithmic: a steeper line grows faster.",
        ),
        "memory": (
            f"Two lines of peak memory {lengths}; the numbers are in the table below.",
            "Most memory held during one forward pass, beyond what the model itself takes.",
        ),
    }


def _learning_table(results: Results) -> str:
    runs = results["pretraining"]
    lengths = [length for length, _ in runs[0]["perplexity"]]
    return markup.table(
        "After pretraining: perplexity on held-out text, read in pieces of so many tokens",
        ["model", "parameters", *(f"{length:,} tokens" for length in lengths), "training time", "tokens/s"],
        [
            (
                run["label"],
                f"{run['parameters']:,}",
                *(f"{value:.1f}" for _, value in run["perplexity"]),
                words.seconds(run["seconds"]),
                f"{run['tokens_per_second']:,.0f}",
            )
            for run in runs
        ],
        highlight=[number for number, run in enumerate(runs) if run["name"] == "linformer"],
    )


def _passages_table(results: Results) -> str:
    task = results["passages"]
    return markup.table(
        f"Accuracy on {task['held_out']:,} held-out passages, after {task['train']:,} for training",
        ["method", "accuracy"],
        [(label, f"{task['accuracy'][name]:.1%}") for name, label in ACCURACY_LABELS.items()],
        highlight=[list(ACCURACY_LABELS).index("linformer")],
    )


def _books_table(results: Results) -> str:
    books = results["data"]["books"]
    return markup.table(
        "Held-out passages of each book",
        ["book", "author", "right", "of"],
        [
            (book["title"], book["author"], right, total)
            for book, (right, total) in zip(books, results["passages"]["by_book"], strict=True)
        ],
    )


def _made(results: Results) -> list[tuple[str, object]]:
    environment, settings, data = results["environment"], results["settings"], results["data"]
    shape = (
        f"{settings['num_hidden_layers']} layers, hidden size {settings['hidden_size']}, "
        f"{settings['num_attention_heads']} heads, {data['vocabulary']:,} tokens in the vocabulary, pre-norm"
    )
    stages = ", ".join(f"{share:.0%} at {length:,}" for length, share in settings["stages"])
    versions = ", ".join(f"{name} {number}" for name, number in environment["versions"].items())
    return [
        ("Command", results["command"]),
        ("When", results["created"]),
        ("Seed", results["seed"]),
        (
            "Machine",
            f"{environment['processor']}, {environment['cores']} cores, {environment['memory_gb']} GB, "
            f"{environment['system']}; ran on {environment['device']} with {environment['threads']} threads"
            + ("" if environment["load_average"] is None else f"; load at the start {environment['load_average']}"),
        ),
        ("Versions", f"Python {environment['python']}, {versions}"),
        ("Models", shape),
        (
            "Linformer",
            f"{settings['projected_dim']} slots by {settings['projection_kind']}, window {settings['local_window']}",
        ),
        (
            "Pretraining",
            f"{settings['pretrain_steps']:,} steps of {settings['tokens_per_step']:,} tokens; {stages} tokens",
        ),
        ("Text", f"{data['train_tokens']:,} tokens for training, {data['held_out_tokens']:,} held out"),
        ("Time of each part", ", ".join(f"{name} {words.seconds(value)}" for name, value in results["stages"].items())),
    ]
