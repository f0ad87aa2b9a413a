"""`codegen complete` and `codegen models serve`: a model at work, for a look or over REST.

One decision: the address and the fields are those of OpenAI's completions (`POST /v1/completions`), which editors and
clients speak; FastAPI checks what comes in and describes it at `/docs`. Requests are answered one after another, each with
all its samples at once. What a model writes is text here, and is never executed.
"""

from __future__ import annotations

import threading
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import uvicorn
from fastapi import FastAPI
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from components.core.errors import CodegenError
from components.core.network import require_free_port
from components.evaluation.completion import Asked, complete

if TYPE_CHECKING:
    from fastapi import Request

    from components.evaluation.samples import Completer

_MOST_PROMPT = 1_000_000
"""Characters of a prompt; far more than any context holds, far less than memory."""


class CompletionRequest(BaseModel):
    """A request in the form of OpenAI's completions; fields that play no part here are refused, not ignored."""

    model_config = ConfigDict(extra="forbid")

    prompt: Annotated[str, Field(min_length=1, max_length=_MOST_PROMPT)]
    model: str | None = None
    """For clients that insist on naming one: there is one model here."""
    n: int = Field(default=1, ge=1, le=128)
    max_tokens: int = Field(default=128, ge=1)
    temperature: float = Field(default=0.2, ge=0)
    top_p: float = Field(default=0.95, gt=0, le=1)
    seed: int = Field(default=0, ge=0)
    stop: str | list[str] | None = None
    truncate: bool = True
    """Ours: whether completions end where HumanEval's rules end them."""

    def asked(self) -> Asked:
        """The same in our words."""
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return Asked(
            num_samples=self.n,
            max_new_tokens=self.max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            seed=self.seed,
            stop=tuple(stop),
            truncated=self.truncate,
        )


def application(sampler: Completer, name: str, digest: str) -> FastAPI:
    """The web application of one model.

    Args:
        sampler: draws from it.
        name: as it is registered, for those who ask.
        digest: SHA-256 of its files.
    """
    app, alone = FastAPI(title=name, description="Completes code. What it writes is not checked."), threading.Lock()

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/v1/models")
    def models() -> dict[str, Any]:
        return {"object": "list", "data": [{"id": name, "object": "model", "owned_by": "codegen", "digest": digest}]}

    @app.post("/v1/completions")
    def completions(request: CompletionRequest) -> dict[str, Any]:
        with alone:
            found = complete(sampler, request.prompt, request.asked())
        choices = [
            {"index": number, "text": one.text, "finish_reason": "stop" if one.ended else "length", "logprobs": None}
            for number, one in enumerate(found)
        ]
        return {
            "id": f"cmpl-{uuid.uuid4().hex}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": name,
            "digest": digest,
            "choices": choices,
            "usage": {"completion_tokens": sum(one.num_tokens for one in found)},
        }

    @app.exception_handler(CodegenError)
    def explain(_: Request, error: CodegenError) -> JSONResponse:
        return JSONResponse({"error": {"message": str(error), "type": type(error).__name__}}, status_code=400)

    return app


def serve(checkpoint: Path, *, name: str, digest: str, host: str, port: int) -> None:
    """Answer requests until a signal arrives.

    Raises:
        CodegenError: the port is taken, or the checkpoint is damaged.
    """
    from components.evaluation.sampler_pool import open_sampler

    require_free_port(name, port)
    with open_sampler(checkpoint) as sampler:
        uvicorn.run(application(sampler, name, digest), host=host, port=port, log_level="warning")
