"""The ``linformers`` command: gathers the commands and turns every failure into one clear line and an exit code.

Nothing imported here loads torch or transformers, so that ``--help`` and ``--version`` answer at once; each command
imports what it needs inside its function.
"""

import importlib
import re
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from linformers._version import __version__

# Each name is a module of this folder that defines a function of the same name.
COMMANDS = (
    "quickstart",
    "pretrain",
    "finetune",
    "convert",
    "distil",
    "adapt",
    "export",
    "embed",
    "score",
    "calibrate",
    "tokenizer",
    "benchmark",
    "spectrum",
    "advise",
    "reproduce",
    "report",
)

OK, FAILED, MISUSED, INTERRUPTED = 0, 1, 2, 130

app: typer.Typer = typer.Typer(
    name="linformers",
    help="Transformer encoders whose attention is linear in sequence length.",
    epilog="`linformers COMMAND --help` explains a command. New here? Run: linformers quickstart",
    add_completion=False,
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _name in COMMANDS:
    app.command(_name)(getattr(importlib.import_module(f"linformers.cli.{_name}"), _name))


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"linformers {__version__}")
        raise typer.Exit()


@app.callback()
def _options(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", "-V", help="Print the version and exit.", callback=_print_version, is_eager=True),
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error. Allowed anywhere.")] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def _complain(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)


def _with_flags(message: str, arguments: Sequence[str]) -> str:
    """A message that names options as they are written in Python, with the flags of the command that was called."""
    commands = getattr(typer.main.get_command(app), "commands", {})
    command = next((commands[argument] for argument in arguments if argument in commands), None)
    flags = {}
    for one in command.params if command is not None else ():
        long = [name for name in one.opts if name.startswith("--")]
        flags |= {one.name: long[0]} if long and one.name else {}
    if not flags:
        return message
    # Not inside paths, and no keys of recipes as training.steps=10.
    known = re.compile(rf"(?<![\w./\-])({'|'.join(map(re.escape, flags))})(=|(?![\w/\-]|\.\w))")

    def flag(found: re.Match[str]) -> str:
        name, sign = found.groups()
        missing = message.startswith((" is missing", " must be at least "), found.end())
        return flags[name] + " " * bool(sign) if sign or missing or "_" in name else name

    return known.sub(flag, message)


def run(arguments: Sequence[str]) -> int:
    """Run the command line and return its exit code: 0, 1 failed, 2 misused, 130 interrupted.

    A user's error (``ValueError``, ``TypeError`` or ``OSError``, whose message names the field, the value and the
    remedy) is printed as one line. Any other exception is a bug of ours and says so. ``--debug`` lets both through.
    """
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        code = app(arguments, prog_name="linformers", standalone_mode=False)
    except typer.TyperException as error:
        causes = getattr(error.__cause__, "errors", None)  # typer checks with pydantic, and leaves the value out
        value = f", got {causes()[0]['input']!r}" if causes else ""
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "linformers"
        _complain(f"{error.format_message()}{value} (see: {command} --help)")
        return MISUSED
    except KeyboardInterrupt:
        code = INTERRUPTED
    except Exception as error:
        if debug:
            raise
        from linformers.files.folders import explain

        if (said := explain(error)) is not None:
            _complain(said)
            return FAILED
        expected = isinstance(error, ValueError | TypeError | OSError)
        kind = "" if expected else f"{type(error).__name__}: "
        remedy = "" if expected else " (this should not happen: run again with --debug and report the traceback)"
        _complain(f"{kind}{_with_flags(str(error), arguments)}{remedy}")
        return FAILED
    if code == INTERRUPTED:
        print("\ninterrupted", file=sys.stderr)
    return code if isinstance(code, int) else OK


def main() -> None:
    """Entry point of the console script."""
    sys.exit(run(sys.argv[1:]))
