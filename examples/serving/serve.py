"""Answer texts over HTTP from an exported classifier, in batches. LitServe is the server; here is what it serves.

    pip install litserve onnxruntime tokenizers
    linformers export --model MODEL --output EXPORT
    python examples/serving/serve.py EXPORT [PORT]
    curl localhost:8000/predict -H 'Content-Type: application/json' -d '{"text": "A text."}'

Bad input is refused (413, 422) with its reason. To serve other machines, put a proxy with a login before it.
"""

import sys
from pathlib import Path
from typing import Any, ClassVar

from fastapi import HTTPException
from litserve import LitAPI, LitServer
from pydantic import BaseModel, model_validator

sys.path.insert(0, str(Path(__file__).parents[1]))
from onnx_inference import Model  # noqa: E402


class Request(BaseModel, extra="forbid"):
    """A text that the model can read: LitServe would refuse the whole batch that another one is in."""

    text: str
    model: ClassVar[Model]

    @model_validator(mode="before")
    @classmethod
    def _check(cls, given: Any) -> Any:
        try:
            special = cls.model.tokenizer.encode(given["text"]).special_tokens_mask
        except (KeyError, TypeError):
            special = []
        if all(special):
            raise HTTPException(422, 'send one text that is not empty, in whole Unicode characters: {"text": "..."}')
        if len(special) > cls.model.longest:
            raise HTTPException(413, f"{len(special):,} tokens; the model reads {cls.model.longest:,} at most")
        return given


class Service(LitAPI):  # noqa: D101
    def setup(self, device: str) -> None:  # noqa: D102
        self.model = Model(Path(sys.argv[1]))

    def decode_request(self, request: Request) -> str:  # noqa: D102
        return request.text

    def predict(self, x: list[str]) -> list[dict[str, object]]:  # noqa: D102
        return [self.model.named(scores) for scores in self.model.probabilities(self.model(x))]


if __name__ == "__main__":
    Request.model = Model(Path(sys.argv[1]))
    if not Request.model.architecture.endswith("Classification"):
        sys.exit(f"error: {sys.argv[1]} holds a {Request.model.architecture}; this example is for classifiers")
    server = LitServer(Service(max_batch_size=16, batch_timeout=0.01), accelerator="cpu", max_payload_size=10**6)
    server.run(host="127.0.0.1", port=(sys.argv[2:] or ["8000"])[0], num_api_servers=1, generate_client_file=False)
