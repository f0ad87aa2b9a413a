"""`codegen models serve`: completions of a model over REST.

The path and the fields are those of OpenAI's completions (`POST /v1/completions`), which editors
and clients support; `/docs` describes them. Requests are processed one after another, each with all
its samples in a batch. Completions are text and never executed. There is no password, but
`core.http_guard` refuses foreign Hosts and Origins, so no web page can use the model.
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
import uuid
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast

import psutil
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, model_validator
from starlette.exceptions import HTTPException

from components.core.config import Seed
from components.core.errors import CodegenError, ConfigError
from components.core.http_guard import LOOPBACK_NAMES, HttpGuard
from components.evaluation.sampling.completion import (
    MAX_SAMPLES,
    MAX_STOPS,
    CompletionParams,
    complete,
)
from components.model.config import Temperature
from flows.servers.completion_metrics import CompletionMetrics
from flows.servers.request_limits import BodyLimit, RequestLimits, error_document, server_config

if TYPE_CHECKING:
    from rich.console import Console

    from components.evaluation.sampling.sampler import SamplerProtocol

_COMPLETIONS_PATH = "/v1/completions"
_IP_FAMILIES = (socket.AF_INET, socket.AF_INET6)
_MAX_PROMPT_CHARS = 1_000_000
"""Far more than any context, far less than memory (assumption)."""
_POLL_INTERVAL_S = 0.5
"""Interval in which a request checks its client and its time (assumption)."""

T = TypeVar("T")


_NEUTRAL_VALUES: dict[str, tuple[Any, ...]] = {
    "echo": (False,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "logprobs": (),
    "presence_penalty": (0,),
    "stream": (False,),
    "stream_options": (),
    "suffix": ("",),
}
"""Fields of OpenAI that are not supported, with the values that have no effect, besides null."""


class CompletionRequest(BaseModel):
    """A request in OpenAI's form. A field with null has its default. Unsupported fields are
    accepted with values that have no effect, and rejected with others."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    prompt: Annotated[str, Field(min_length=1, max_length=_MAX_PROMPT_CHARS)]
    """Or a list with one text. Truncated on the left to the context length minus `max_tokens`."""
    model: str | None = None
    """Ignored: the server has a single model."""
    user: str | None = None
    """Ignored."""
    n: int = Field(default=1, ge=1, le=MAX_SAMPLES)
    max_tokens: int = Field(default=128, ge=1)
    temperature: Temperature = 0.2
    top_p: float = Field(default=0.95, gt=0, le=1)
    seed: Seed = 0
    stop: str | Annotated[list[str], Field(max_length=MAX_STOPS)] | None = None
    truncate: bool = True
    """Whether to truncate completions by the rules of HumanEval. Not a field of OpenAI."""

    @model_validator(mode="before")
    @classmethod
    def _drop_neutral_values(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        fields = {name: value for name, value in values.items() if value is not None}
        # Of `best_of` completions, the best `n` would be returned.
        neutral = {**_NEUTRAL_VALUES, "best_of": (fields.get("n", 1),)}
        for name, neutral_values in neutral.items():
            value = fields.pop(name, None)
            if value is not None and value not in neutral_values:
                accepted = " or ".join(["null", *(json.dumps(item) for item in neutral_values)])
                raise ValueError(f"{name} is not supported; expected: {accepted}")
        match fields.get("prompt"):
            case [str(text)]:
                fields["prompt"] = text
            case [_, _, *_]:
                raise ValueError("prompt has several texts; expected: one request per text")
        return fields

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
    limits: RequestLimits = RequestLimits(),  # noqa: B008 - frozen
) -> FastAPI:
    """Return the web application of a model.

    Args:
        sampler: the sampler of the model.
        name: model name in responses.
        digest: SHA-256 of the model's files.
        host_names: host names that requests may use.
        limits: limits of requests.
    """
    app = FastAPI(title=name, description="Completes code. Completions are not checked.")
    queue = _Queue(limits)
    metrics = CompletionMetrics(name, digest)
    app.add_middleware(BodyLimit, limits=limits)
    app.add_middleware(metrics.measure, path=_COMPLETIONS_PATH)
    app.add_middleware(HttpGuard, names=host_names)  # The outermost: it refuses before reading.

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/metrics")
    async def prometheus_metrics() -> Response:
        return metrics.response()

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {
            "object": "list",
            "data": [{"id": name, "object": "model", "owned_by": "codegen", "digest": digest}],
        }

    @app.post(_COMPLETIONS_PATH)
    async def completions(request: CompletionRequest, connection: Request) -> dict[str, Any]:
        params = request.sampling_params()
        results = await queue.run(
            lambda is_cancelled: complete(sampler, request.prompt, params, is_cancelled),
            connection.is_disconnected,
        )
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
        metrics.tokens.inc(num_tokens)
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

    @app.exception_handler(HTTPException)
    async def http_error(_: Request, error: HTTPException) -> JSONResponse:
        return _error_response(error, str(error.detail), error.status_code)

    @app.exception_handler(RequestValidationError)
    async def validation_error(_: Request, error: RequestValidationError) -> JSONResponse:
        # FastAPI's own response quotes the input, and fails if JSON or UTF-8 cannot represent it.
        messages = []
        for detail in error.errors():
            field = ".".join(map(str, detail["loc"][1:])) or "the request"
            messages.append(f"{field}: {detail['msg'].removeprefix('Value error, ')}")
        return _error_response(error, "; ".join(messages), 422)

    return app


class _Queue:
    """Processes requests one after another, in threads; bounds their number and time."""

    def __init__(self, limits: RequestLimits) -> None:
        self._limits = limits
        self._lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()

    async def run(
        self,
        work: Callable[[Callable[[], bool]], T],
        is_disconnected: Callable[[], Awaitable[bool]],
    ) -> T:
        """Return the result of `work`.

        Args:
            work: called in a thread with a function that returns whether to end early, because the
                client has left or the time is over.
            is_disconnected: whether the client has left.

        Raises:
            HTTPException: too many requests, or no result in time.
        """
        if len(self._tasks) >= self._limits.max_requests:
            raise HTTPException(429, f"{len(self._tasks)} requests wait; try again later")
        is_cancelled = threading.Event()

        async def process() -> T | None:
            async with self._lock:
                if is_cancelled.is_set():
                    return None
                return await run_in_threadpool(work, is_cancelled.is_set)

        task = asyncio.create_task(process())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        deadline = time.monotonic() + self._limits.timeout_s
        while not task.done():
            is_late = time.monotonic() > deadline
            if is_late or await is_disconnected():
                is_cancelled.set()  # The thread ends before its next token.
                task.add_done_callback(_ignore_result)
                reason = f"no completion within {self._limits.timeout_s:.0f} s"
                raise HTTPException(504, reason if is_late else "the client has left")
            await asyncio.wait([task], timeout=_POLL_INTERVAL_S)
        return cast(T, task.result())


def _ignore_result(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()  # Otherwise asyncio logs an unread exception.


def _error_response(error: Exception, message: str, status: int) -> JSONResponse:
    text = message.encode(errors="backslashreplace").decode()
    return JSONResponse(error_document(text, type(error).__name__), status_code=status)


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
            f"{name}  {digest[:12]}  http://{_url_host(host)}:{port}{_COMPLETIONS_PATH}  "
            "(described at /docs)",
            soft_wrap=True,
            markup=False,
        )
        limits = RequestLimits()
        names = host_names(host, allowed_hosts)
        app = create_app(sampler, name, digest, host_names=names, limits=limits)
        server = uvicorn.Server(server_config(app, limits))
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
