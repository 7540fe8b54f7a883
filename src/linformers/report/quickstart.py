"""The page of a quickstart, from its results."""

import math
from typing import Any

from markupsafe import Markup

from linformers.report import conversion, plots, words
from linformers.report.cost import cost_table, headlines, memory_chart, time_chart
from linformers.report.document import Chart, Command, Note, Quote, Report, Section, Table, machine
from linformers.report.words import Results

ACCURACY_LABELS = {"tfidf": "TF-IDF + logistic regression", "linformer": "Linformer", "majority": "commonest book"}


def document(results: Results) -> Report:
    """What ``results.json`` of a quickstart holds, as a page."""
    converted = words.converted(results)
    if converted:
        first = conversion.section(results)
    else:
        first = Note(f"No converted model in this report: {results['conversion']['skipped']}.")
    return Report(
        title="A trained model made linear, and one that learns to read" if converted else "A Linformer learns to read",
        lead=_lead(results),
        facts=_facts(results),
        sections=[
            first,
            _learning(results),
            _passages(results),
            _cost(results),
            Section(title="Try next", blocks=[Command(what, command) for what, command in results["next"]]),
        ],
        made=_made(results),
    )


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


def _facts(results: Results) -> list[tuple[str, str, str]]:
    ours, softmax, control = (
        words.perplexity(words.by_name(results["pretraining"])[name])
        for name in ("linformer", "transformer", "control")
    )
    accuracy = results["passages"]["accuracy"]
    return [
        *(conversion.facts(results["conversion"]) if words.converted(results) else []),
        (
            "Small Linformer: perplexity on held-out text (lower is better)",
            f"{ours:.1f}",
            f"Transformer {softmax:.1f}, without attention {control:.1f}",
        ),
        (
            "Small Linformer: passages given to the right book",
            f"{accuracy['linformer']:.0%}",
            f"commonest book {accuracy['majority']:.0%}, TF-IDF {accuracy['tfidf']:.0%}",
        ),
        *headlines("Small Linformer", results["cost"]["cells"], _labels(results)),
    ]


def _labels(results: Results) -> dict[str, str]:
    """The models whose cost is measured."""
    return {run["name"]: run["label"] for run in results["pretraining"] if run["name"] != "control"}


def _learning(results: Results) -> Section:
    settings, runs = results["settings"], results["pretraining"]
    ends = ", ".join(f"{run['label']} {math.exp(run['losses'][-1][1]):.1f}" for run in runs)
    chart = Chart(
        name="learning",
        picture=plots.plot_learning(runs, settings["stages"]),
        alt=f"Lines of training perplexity against training steps. At the end: {ends}.",
        caption="Perplexity on the text of the moment, while training. Shades mark the stages of growing sequences; "
        "their lengths in tokens are along the top.",
    )
    table = Table(
        caption="After pretraining: perplexity on held-out text, read in pieces of so many tokens",
        head=[
            "model",
            "parameters",
            *(f"{length:,} tokens" for length, _ in runs[0]["perplexity"]),
            "training time",
            "tokens/s",
        ],
        rows=[
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
    about = (
        "Three models of one shape read the same text in the same order, with the same words hidden, and learned to "
        "fill the gaps. They differ only in how a token looks at the others: the Linformer through "
        f"{settings['projected_dim']} summaries of the text and at its nearest {settings['local_window']} neighbours "
        "on each side; the Transformer at every other token; the control not at all."
    )
    title = "A small Linformer from scratch: what it learned"
    return Section(title=title, blocks=[about, words.learning(results), chart, table])


def _passages(results: Results) -> Section:
    task, books = results["passages"], results["data"]["books"]
    shares = [
        ("linformer" if name == "linformer" else "control", label, task["accuracy"][name])
        for name, label in ACCURACY_LABELS.items()
    ]
    chart = Chart(
        name="passages",
        picture=plots.plot_passages(shares),
        alt=f"Bars of accuracy: {', '.join(f'{label} {share:.0%}' for _, label, share in shares)}.",
        caption="Held-out passages given to the right book.",
    )
    table = Table(
        caption=f"Accuracy on {task['held_out']:,} held-out passages, after {task['train']:,} for training",
        head=["method", "accuracy"],
        rows=[(label, f"{share:.1%}") for _, label, share in shares],
        highlight=[list(ACCURACY_LABELS).index("linformer")],
    )
    by_book = Table(
        folded="Accuracy book by book",
        caption="Held-out passages of each book",
        head=["book", "author", "right", "of"],
        rows=[
            (book["title"], book["author"], right, total)
            for book, (right, total) in zip(books, task["by_book"], strict=True)
        ],
    )
    drawn = Note("Drawn at random; only the beginning is shown.")
    return Section(
        title="What it can do with it",
        blocks=[
            f"The pretrained Linformer was taught to tell which of {len(books)} books a passage of {task['tokens']:,} "
            "tokens comes from. The passages of the test come from parts of the books that nothing was trained on, "
            "tokenizer included.",
            words.passages(results),
            chart,
            table,
            Section(title="Three passages it had never seen", blocks=[drawn, *map(_passage, task["examples"])]),
            by_book,
        ],
    )


def _passage(example: dict[str, Any]) -> Quote:
    """The beginning of a text, where it comes from, and what the model thinks."""
    guesses = example["guesses"]
    thoughts = ", ".join(f"{name} {share:.0%}" for name, share in guesses)
    verdict = "Right." if guesses and guesses[0][0] == example["book"] else "Wrong."
    about = Markup("From <cite>{}</cite>. The model says: {}. {}").format(example["book"], thoughts, verdict)
    return Quote(example["text"], about)


def _cost(results: Results) -> Section:
    cells, labels = results["cost"]["cells"], _labels(results)
    charts = [time_chart("time", cells, labels)]
    if any(cell["peak_bytes"] for cell in cells):
        charts.append(memory_chart("memory", cells, labels))
    return Section(
        title="What it costs",
        blocks=[
            f"One forward pass over one text, on {results['cost']['device']}, each measured in a process of its own.",
            words.cost(results),
            *charts,
            cost_table("One forward pass: time and peak memory beyond the model", cells, labels),
        ],
    )


def _made(results: Results) -> list[tuple[str, object]]:
    settings, data = results["settings"], results["data"]
    stages = ", ".join(f"{share:.0%} at {length:,}" for length, share in settings["stages"])
    return [
        ("Command", results["command"]),
        ("When", results["created"]),
        ("Seed", results["seed"]),
        *machine(results["environment"]),
        (
            "Models",
            f"{settings['num_hidden_layers']} layers, hidden size {settings['hidden_size']}, "
            f"{settings['num_attention_heads']} heads, {data['vocabulary']:,} tokens in the vocabulary, pre-norm",
        ),
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
        (
            "Read with care",
            "Small models after minutes of training, from one seed: read the differences, not the absolute numbers. "
            "All of it is in results.json beside this page.",
        ),
    ]
