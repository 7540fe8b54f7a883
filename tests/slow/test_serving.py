"""The example of a service, as its clients meet it."""

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from scoring_helpers import make_classifier, texts

pytest.importorskip("litserve", reason="the example needs LitServe: pip install litserve")
pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.slow

EXAMPLE = Path(__file__).parents[2] / "examples" / "serving" / "serve.py"
LONG = " ".join(["a"] * 63)  # and two special tokens: one more than the model reads
BAD = {
    413: [{"text": LONG}, {"text": "a" * 2**20}],
    422: [{"text": 5}, {"text": None}, {"text": ["a"]}, {"text": ""}, {"text": "\ud800"}, {}, [], "film"]
    + [{"text": "a film", "model": "x"}, None],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("serving")
    make_classifier(work / "model")
    given = ["export", "--model", str(work / "model"), "--output", str(work / "export")]
    subprocess.run([sys.executable, "-m", "linformers", *given], check=True, stdout=subprocess.DEVNULL)
    return work / "export"


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, str(EXAMPLE), str(folder), str(port)]
    said = (folder.parent / "said.txt").open("w+")
    process = subprocess.Popen(command, cwd=folder.parent, stdout=said, stderr=said)
    until = time.perf_counter() + 120
    while process.poll() is None and time.perf_counter() < until and not _healthy(f"http://127.0.0.1:{port}"):
        time.sleep(0.2)
    try:
        assert _healthy(f"http://127.0.0.1:{port}"), said.seek(0) or said.read()
        yield f"http://127.0.0.1:{port}"
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        process.wait(60)
        assert not psutil.wait_procs(children, timeout=10)[1]  # nothing goes on
    finally:
        process.kill()
        said.close()


def _healthy(address: str) -> bool:
    try:
        return urllib.request.urlopen(f"{address}/health", timeout=5).status == 200
    except OSError:
        return False


def ask(address: str, body: bytes) -> tuple[int, Any]:
    """Status and answer."""
    request = urllib.request.Request(f"{address}/predict", body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_answers_are_those_of_score_also_beside_bad_requests(folder: Path, address: str) -> None:
    from linformers.scoring.scorer import Scorer
    from linformers.scoring.settings import Reading

    asked = [text for text in texts(30) if len(text.split()) < 40][:3]
    scorer = Scorer(Reading(model=str(folder)))
    expected = scorer.score(scorer.encode(asked)).values
    assert expected is not None and expected.std(0).min() > 0.01  # the texts are told apart
    bodies = [json.dumps({"text": text}).encode() for text in asked]
    with ThreadPoolExecutor(24) as pool:  # all at once, so that they share batches
        bad = [pool.submit(ask, address, json.dumps({"text": LONG}).encode()) for _ in range(6)]
        answers = list(pool.map(lambda body: ask(address, body), bodies * 4))
    assert {one.result()[0] for one in bad} == {413}
    for number, (status, answer) in enumerate(answers):
        row = expected[number % 3]
        assert status == 200 and answer["label"] == scorer.network.labels[row.argmax()]
        assert answer["probabilities"] == pytest.approx(
            dict(zip(scorer.network.labels, row.tolist(), strict=True)), abs=1e-5
        )


@pytest.mark.parametrize(
    ("code", "given"), [(code, one) for code, some in BAD.items() for one in some], ids=lambda one: str(one)[:30]
)
def test_what_cannot_be_read_is_refused(address: str, code: int, given: Any) -> None:
    status, why = ask(address, json.dumps(given).encode())
    assert status == code and len(why) < 400, str(why)[:400]
    if given == {"text": LONG}:
        assert "65 tokens" in why and "64" in why
    if given == {"text": 5}:
        assert "send one text" in why


def test_what_is_no_json_is_refused(address: str) -> None:
    assert ask(address, b"{broken")[0] == 422 and 400 <= ask(address, b"\xff")[0] < 500


def test_a_folder_that_is_no_export_is_said_in_one_line(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, str(EXAMPLE), str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 1 and "has no model.onnx" in done.stderr and "Traceback" not in done.stderr
