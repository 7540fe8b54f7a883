"""The command line's frame: help, version, one clear line for each kind of failure, and exit codes."""

import signal
import subprocess
import sys

import pytest
import typer

from linformers import __version__
from linformers.cli import main


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch):
    """Install a command `try-it` that fails as the test says, beside the real ones."""

    def install(function) -> None:
        app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        app.callback()(main._options)
        app.command("try-it")(function)
        monkeypatch.setattr(main, "app", app)

    return install


def failing(error: BaseException):
    def try_it(steps: int = 1) -> None:
        raise error

    return try_it


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(arguments) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in main.COMMANDS)
    assert "completion" not in shown


@pytest.mark.parametrize("name", main.COMMANDS)
def test_help_of_each_command(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run([name, "--help"]) == 0
    assert f"linformers {name}" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["--version"]) == 0
    assert capsys.readouterr().out == f"linformers {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["try-ti"], "try-it"),
        (["try-it", "--stesp", "2"], "--steps"),
        (["try-it", "--steps", "many"], "'many'"),
        (["try-it", "--steps"], "--steps"),
        (["try-it", "surplus"], "surplus"),
        (["--nope"], "--nope"),
    ],
)
def test_misuse_names_the_remedy(command, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    command(failing(AssertionError("must not run")))
    assert main.run(arguments) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("error: ") and shown.err.count("\n") == 1
    assert said in shown.err and "--help" in shown.err and not shown.out


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("projected_dim=0 is too small: give at least 1"), "projected_dim=0 is too small: give at least 1"),
        (TypeError("steps must be an integer"), "steps must be an integer"),
        (FileNotFoundError(2, "No such file", "books.txt"), "books.txt: No such file"),
    ],
)
def test_error_of_the_user(command, error: Exception, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    command(failing(error))
    assert main.run(["try-it"]) == 1
    assert capsys.readouterr().err == f"error: {line}\n"
    with pytest.raises(type(error)):
        main.run(["try-it", "--debug"])


def test_error_of_ours_asks_for_a_report(command, capsys: pytest.CaptureFixture[str]) -> None:
    command(failing(RuntimeError("boom")))
    assert main.run(["try-it"]) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("error: RuntimeError: boom") and "--debug" in shown


def test_bad_parameter_and_exit_code(command, capsys: pytest.CaptureFixture[str]) -> None:
    command(failing(typer.BadParameter("no such task", param_hint="--task")))
    assert main.run(["try-it"]) == 2
    assert "--task: no such task" in capsys.readouterr().err
    command(failing(typer.Exit(3)))
    assert main.run(["try-it"]) == 3


def test_interrupt(command, capsys: pytest.CaptureFixture[str]) -> None:
    command(failing(KeyboardInterrupt()))
    assert main.run(["try-it"]) == 130
    assert "interrupted" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_interrupt_of_a_process() -> None:
    code = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ignored by what starts in the background
        "from linformers.cli import main\n"
        "@main.app.command()\n"
        "def wait() -> None:\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(60)\n"
        "sys.argv = ['linformers', 'wait']\n"
        "main.main()\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=-1, stderr=-1, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 130
        shown = process.stderr.read()
    assert "interrupted" in shown and "Traceback" not in shown


def test_module_is_the_command() -> None:
    shown = subprocess.check_output([sys.executable, "-m", "linformers", "--version"], text=True)
    assert shown == f"linformers {__version__}\n"
