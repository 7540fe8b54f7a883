"""Whether a change made a converted encoder slower: today's ratios beside those of the committed file.

    make bench                 or   python benchmarks/compare.py [--seconds 20]

Times a converted MiniLM as `conversion_speed.py` does, at 512, 2,048 and 8,192 tokens, into `build/bench/`, and prints
for each ratio (softmax attention over ours, chunks over ours) what it is now, what `results/conversion-speed.csv` has,
and the quotient. Seconds of two machines cannot be compared; ratios within one run can. Below 0.9 something has become
slower.
"""

import argparse
import csv
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
COMMITTED = ROOT / "results" / "conversion-speed.csv"
LENGTHS = ("512", "2048", "8192")
SLOWER = 0.9


def read(path: Path) -> dict[str, dict[str, float]]:
    """The ratios of MiniLM by length and name."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    rows = [row for row in csv.DictReader(lines) if row["model"] == "minilm"]
    return {row["n"]: {name: float(x) for name, x in row.items() if " / " in name and x} for row in rows}


def main() -> None:
    """Measure, and compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20.0, help="of rounds at each length")
    parser.add_argument("--new", type=Path, help="a file of ratios that is there already, in place of measuring")
    arguments = parser.parse_args()
    new = arguments.new
    if new is None:
        output = ROOT / "build" / "bench"
        output.mkdir(parents=True, exist_ok=True)
        script = [sys.executable, str(ROOT / "benchmarks" / "conversion_speed.py"), "--models", "minilm", "--no-memory"]
        script += ["--lengths", *LENGTHS, "--seconds", str(arguments.seconds), "--output", str(output)]
        subprocess.run(script, check=True)
        new = output / COMMITTED.name
    before, now = read(COMMITTED), read(new)
    table = Table("tokens", "ratio", "now", "committed", "now / committed")
    for length in (length for length in now if length in before):
        for name in (name for name in now[length] if name in before[length]):
            quotient = now[length][name] / before[length][name]
            cells = [length, name, f"{now[length][name]:.3g}", f"{before[length][name]:.3g}", f"{quotient:.2f}"]
            table.add_row(*cells, style="red" if quotient < SLOWER else None)
    Console().print(table)


if __name__ == "__main__":
    main()
