"""`codegen complete` and `codegen models serve`: a model at work, for a look or over REST.

One decision: the address and the fields are those of OpenAI's completions (`POST /v1/completions`), which editors and
clients speak; FastAPI checks what comes in and describes it at `/docs`. Requests are answered one after another, each with
all its samples at once. What a model writes is text here, and is never executed. There is no password, but requests under
a foreign Host or from pages of other origins are refused, so that no web page can use the model (`core.http_guard`).
"""

from __future__ import annotations

import socket
import threading
import time
import uuid
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import psutil
import uvicorn
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from components.core.errors import CodegenError, ConfigError
from components.core.http_guard import LOOPBACK_NAMES, HttpGuard
from components.evaluation.sampling.completion import (
    MAX_SAMPLES,
    MAX_STOPS,
    CompletionParams,
    complete,
)

if TYPE_CHECKING:
    from fastapi import Request
    from rich.console import Console

    from components.evaluation.sampling.sampler import SamplerProtocol


_INTERNET = (socket.AF_INET, socket.AF_INET6)
_MAX_PROMPT_CHARS = 1_000_000
"""Characters of a prompt; far more than any context holds, far less than memory."""


class CompletionRequest(BaseModel):
    """A request in the form of OpenAI's completions; fields that play no part here are refused, not ignored."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    prompt: Annotated[str, Field(min_length=1, max_length=_MAX_PROMPT_CHARS)]
    """Where it is longer than the model's context less `max_tokens`, its beginning is not read."""
    model: str | None = None
    """For clients that insist on naming one: there is one model here."""
    n: int = Field(default=1, ge=1, le=MAX_SAMPLES)
    max_tokens: int = Field(default=128, ge=1)
    temperature: float = Field(default=0.2, ge=0)
    top_p: float = Field(default=0.95, gt=0, le=1)
    seed: int = Field(default=0, ge=0)
    stop: str | Annotated[list[str], Field(max_length=MAX_STOPS)] | None = None
    truncate: bool = True
    """Ours: whether completions end where HumanEval's rules end them."""

    def sampling_params(self) -> CompletionParams:
        """The same in our words."""
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return CompletionParams(
            num_samples=self.n,
            max_new_tokens=self.max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            seed=self.seed,
            stop=tuple(stop),
            truncated=self.truncate,
        )


def create_app(
    sampler: SamplerProtocol,
    name: str,
    digest: str,
    *,
    host_names: Collection[str] = LOOPBACK_NAMES,
) -> FastAPI:
    """The web application of one model.

    Args:
        sampler: draws from it.
        name: as it is registered, for those who ask.
        digest: SHA-256 of its files.
        host_names: the names under which clients may address the server.
    """
    app, alone = (
        FastAPI(title=name, description="Completes code. What it writes is not checked."),
        threading.Lock(),
    )
    app.add_middleware(HttpGuard, names=host_names)

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {
            "object": "list",
            "data": [{"id": name, "object": "model", "owned_by": "codegen", "digest": digest}],
        }

    @app.post("/v1/completions")
    def completions(request: CompletionRequest) -> dict[str, Any]:
        with alone:
            found = complete(sampler, request.prompt, request.sampling_params())
        choices = [
            {
                "index": number,
                "text": one.text,
                "finish_reason": "stop" if one.is_finished else "length",
                "logprobs": None,
            }
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
        return _refusal(error, str(error), 400 if isinstance(error, ConfigError) else 500)

    @app.exception_handler(RequestValidationError)
    async def refuse(_: Request, error: RequestValidationError) -> JSONResponse:
        # FastAPI's own answer quotes what it got, and fails where JSON or UTF-8 has no word for that.
        wrong = (
            f"{'.'.join(map(str, one['loc'][1:])) or 'the request'}: {one['msg']}"
            for one in error.errors()
        )
        return _refusal(error, "; ".join(wrong), 422)

    return app


def _refusal(error: Exception, message: str, status: int) -> JSONResponse:
    """In the form of OpenAI's errors."""
    sayable = message.encode(errors="backslashreplace").decode()
    return JSONResponse(
        {"error": {"message": sayable, "type": type(error).__name__}}, status_code=status
    )


def host_names(host: str, allowed: Collection[str] = ()) -> frozenset[str]:
    """The names under which a server that listens at `host` may be addressed.

    Those of loopback always; beyond loopback also the names and addresses of this machine. An address cannot be the subject
    of DNS rebinding.

    Args:
        host: where it listens.
        allowed: names that the user adds, of a proxy for example.
    """
    names = {*LOOPBACK_NAMES, *allowed}
    if host in ("127.0.0.1", "localhost", "::1"):
        return frozenset(names)
    interfaces = (
        one.address
        for addresses in psutil.net_if_addrs().values()
        for one in addresses
        if one.family in _INTERNET
    )
    addresses = {address.partition("%")[0] for address in (host, *interfaces)}
    return frozenset(
        {
            *names,
            socket.gethostname(),
            socket.getfqdn(),
            *(f"[{one}]" if ":" in one else one for one in addresses),
        }
    )


def serve(
    checkpoint: Path,
    *,
    name: str,
    digest: str,
    host: str,
    port: int,
    console: Console,
    allowed_hosts: Collection[str] = (),
) -> None:
    """Answer requests until a signal arrives; `console` says where, as soon as somebody listens there.

    Args:
        checkpoint: the model's folder.
        name: as it is registered.
        digest: SHA-256 of its files.
        host: the address to listen at.
        port: the port to listen at.
        console: for the address.
        allowed_hosts: names under which clients may address the server, besides those of this machine.

    Raises:
        CodegenError: the port is taken, the host is none of this machine's, or the checkpoint is damaged.
    """
    from components.evaluation.sampling.sampler_pool import open_sampler

    with _listening(host, port) as listener, open_sampler(checkpoint) as sampler:
        console.print(
            f"{name}  {digest[:12]}  http://{host}:{port}/v1/completions  (described at /docs)",
            soft_wrap=True,
            markup=False,
        )
        app = create_app(sampler, name, digest, host_names=host_names(host, allowed_hosts))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        with suppress(
            KeyboardInterrupt
        ):  # A signal is how this ends well; requests under way are answered before.
            server.run(sockets=[listener])


def _listening(host: str, port: int) -> socket.socket:
    """Bound by us, since uvicorn says on its own what it cannot have, and ends the program with a status of its own."""
    try:
        return socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET
        )
    except OSError as error:
        raise CodegenError(
            f"no server can listen at {host}:{port}: {_reason(error)}",
            expected="an address of this machine, and a free port",
            fix=f"end what uses it, or choose another: --port {port + 1}, --host 127.0.0.1",
        ) from None


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).partition(" (")[0]  # The rest repeats the address.
