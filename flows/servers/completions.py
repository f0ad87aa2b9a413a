"""`codegen models serve`: completions of a model over REST.

The path and the fields are those of OpenAI's completions (`POST /v1/completions`), which editors
and clients support; `/docs` describes them. Requests are processed one after another, each with all
its samples in a batch. Completions are text and never executed. There is no password, but
`core.http_guard` refuses foreign Hosts and Origins, so no web page can use the model.
"""

from __future__ import annotations

import socket
import threading
import time
import uuid
from collections.abc import Collection
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

_IP_FAMILIES = (socket.AF_INET, socket.AF_INET6)
_MAX_PROMPT_CHARS = 1_000_000
"""Far more than any context, far less than memory (assumption)."""


class CompletionRequest(BaseModel):
    """A request in OpenAI's form; unsupported fields are rejected."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    prompt: Annotated[str, Field(min_length=1, max_length=_MAX_PROMPT_CHARS)]
    """Truncated on the left to the context length minus `max_tokens`."""
    model: str | None = None
    """Ignored: the server has a single model."""
    n: int = Field(default=1, ge=1, le=MAX_SAMPLES)
    max_tokens: int = Field(default=128, ge=1)
    temperature: float = Field(default=0.2, ge=0)
    top_p: float = Field(default=0.95, gt=0, le=1)
    seed: int = Field(default=0, ge=0)
    stop: str | Annotated[list[str], Field(max_length=MAX_STOPS)] | None = None
    truncate: bool = True
    """Whether to truncate completions by the rules of HumanEval. Not a field of OpenAI."""

    def sampling_params(self) -> CompletionParams:
        """Return the parameters of the sampler."""
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
    """Return the web application of a model.

    Args:
        sampler: the sampler of the model.
        name: model name in responses.
        digest: SHA-256 of the model's files.
        host_names: host names that requests may use.
    """
    app = FastAPI(title=name, description="Completes code. Completions are not checked.")
    lock = threading.Lock()
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
        with lock:
            results = complete(sampler, request.prompt, request.sampling_params())
        choices = [
            {
                "index": index,
                "text": completion.text,
                "finish_reason": "stop" if completion.is_finished else "length",
                "logprobs": None,
            }
            for index, completion in enumerate(results)
        ]
        num_tokens = sum(completion.num_tokens for completion in results)
        return {
            "id": f"cmpl-{uuid.uuid4().hex}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": name,
            "digest": digest,
            "choices": choices,
            "usage": {"completion_tokens": num_tokens},
        }

    @app.exception_handler(CodegenError)
    def codegen_error(_: Request, error: CodegenError) -> JSONResponse:
        return _error_response(error, str(error), 400 if isinstance(error, ConfigError) else 500)

    @app.exception_handler(RequestValidationError)
    async def validation_error(_: Request, error: RequestValidationError) -> JSONResponse:
        # FastAPI's own response quotes the input, and fails if JSON or UTF-8 cannot represent it.
        messages = []
        for detail in error.errors():
            field = ".".join(map(str, detail["loc"][1:])) or "the request"
            messages.append(f"{field}: {detail['msg']}")
        return _error_response(error, "; ".join(messages), 422)

    return app


def _error_response(error: Exception, message: str, status: int) -> JSONResponse:
    """Return an error in OpenAI's form."""
    text = message.encode(errors="backslashreplace").decode()
    return JSONResponse(
        {"error": {"message": text, "type": type(error).__name__}}, status_code=status
    )


def host_names(host: str, allowed: Collection[str] = ()) -> frozenset[str]:
    """Return the host names that requests to a server may use.

    Beyond loopback these include the names and addresses of this machine. DNS rebinding cannot use
    an address.

    Args:
        host: listening address.
        allowed: additional names, for example of a proxy.
    """
    names = {*LOOPBACK_NAMES, *allowed}
    if host in ("127.0.0.1", "localhost", "::1"):
        return frozenset(names)
    addresses = {host}
    for interface in psutil.net_if_addrs().values():
        addresses |= {entry.address for entry in interface if entry.family in _IP_FAMILIES}
    for address in addresses:
        names.add(_url_host(address.partition("%")[0]))
    return frozenset({*names, socket.gethostname(), socket.getfqdn()})


def _url_host(address: str) -> str:
    """Return an address as URLs and Host headers write it: IPv6 in brackets."""
    return f"[{address}]" if ":" in address else address


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
    """Serve a model until a signal arrives; prints the address when the port is open.

    Args:
        checkpoint: folder of the model.
        name: model name in responses.
        digest: SHA-256 of the model's files.
        host: listening address.
        port: listening port.
        console: output.
        allowed_hosts: host names that requests may use, in addition to those of this machine.

    Raises:
        CodegenError: the port is in use, the host is not an address of this machine, or the
            checkpoint is damaged.
    """
    from components.evaluation.sampling.sampler_pool import open_sampler

    with _listen(host, port) as listener, open_sampler(checkpoint) as sampler:
        console.print(
            f"{name}  {digest[:12]}  http://{_url_host(host)}:{port}/v1/completions  "
            "(described at /docs)",
            soft_wrap=True,
            markup=False,
        )
        app = create_app(sampler, name, digest, host_names=host_names(host, allowed_hosts))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        server.run(sockets=[listener])  # After a signal, it completes active requests.


def _listen(host: str, port: int) -> socket.socket:
    """Open the port here: on an error, uvicorn would log it and exit with its own code."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        reason = (error.strerror or str(error)).partition(" (")[0]  # Then it repeats the address.
        raise CodegenError(
            f"cannot listen at {_url_host(host)}:{port}: {reason}",
            expected="an address of this machine and a free port",
            fix=f"stop the process that uses the port, or use another one: --port {port + 1}, "
            "--host 127.0.0.1",
        ) from None
