"""`codegen complete`, `codegen models serve` and `codegen notify`: a model at work, and who hears of what."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.cli.options import (
    HIGHEST_PORT,
    ExecutionOverrides,
    Json,
    console,
    load_execution,
    print_json,
)

Model = Annotated[
    str,
    typer.Option(
        "--model", "-m", help="A folder, checkpoint/NAME-RECIPE, NAME@ALIAS or NAME/VERSION."
    ),
]


def complete(
    prompt: Annotated[str, typer.Argument(help="What is to be completed, as it is.")],
    model: Model = "codegen-starter-mono@champion",
    n: Annotated[int, typer.Option(min=1, help="Completions.")] = 1,
    max_tokens: Annotated[int, typer.Option(min=1, help="Of a completion, at most.")] = 128,
    temperature: Annotated[
        float, typer.Option(min=0.0, help="0: the likeliest token, always.")
    ] = 0.2,
    top_p: Annotated[float, typer.Option(help="Mass of the nucleus.")] = 0.95,
    seed: Annotated[int, typer.Option(min=0, help="The same seed, the same completions.")] = 0,
    whole: Annotated[
        bool, typer.Option("--whole", help="Do not cut where HumanEval's rules cut.")
    ] = False,
    as_json: Json = False,
    at: ExecutionOverrides = [],
) -> None:
    """What a model writes after a prompt; it is shown, and never executed."""
    execution = load_execution(at)
    from components.evaluation.sampling.completion import CompletionParams
    from components.evaluation.sampling.completion import complete as completed
    from components.evaluation.sampling.sampler import Sampler
    from flows.steps.resolve_model import locate_model

    asked = CompletionParams.parse(
        {
            "num_samples": n,
            "max_new_tokens": max_tokens,
            "temperature": temperature,
            "top_p": top_p,
            "seed": seed,
            "truncated": not whole,
        }
    )
    found = completed(Sampler(locate_model(execution, model).folder), prompt, asked)
    if as_json:
        print_json({"model": model, "prompt": prompt, "completions": found})
        return
    for number, one in enumerate(found):
        if number:
            console.rule()
        console.out(prompt + one.text, highlight=False)


def serve_model(
    model: Annotated[
        str, typer.Argument(help="A folder, checkpoint/NAME-RECIPE, NAME@ALIAS or NAME/VERSION.")
    ],
    host: Annotated[
        str,
        typer.Option(
            help="Where to listen; another than loopback lets others in, without a password."
        ),
    ] = ("127.0.0.1"),
    port: Annotated[int, typer.Option(min=1, max=HIGHEST_PORT, help="Of the server.")] = 8000,
    allowed_host: Annotated[
        list[str],
        typer.Option(
            help="An additional host name in the Host header of requests; repeatable.",
            metavar="NAME",
        ),
    ] = [],
    at: ExecutionOverrides = [],
) -> None:
    """A model that completes code over REST: POST /v1/completions, as OpenAI's clients speak it."""
    execution = load_execution(at)
    from flows.servers.completions import serve
    from flows.steps.resolve_model import locate_model

    found = locate_model(execution, model)
    serve(
        found.folder,
        name=model,
        digest=found.digest,
        host=host,
        port=port,
        console=console,
        allowed_hosts=allowed_host,
    )


def notify(
    address: Annotated[
        str,
        typer.Argument(
            help="https://... gets JSON; mailtos://USER:PASSWORD@SERVER:PORT?from=A&to=B."
        ),
    ],
    on: Annotated[
        list[str],
        typer.Option(
            help="failed, approval, promoted, refused; may be given again. None: all of them."
        ),
    ] = [],
    as_json: Json = False,
    at: ExecutionOverrides = [],
) -> None:
    """Tell an address when runs fail, a person is asked, or a model is promoted or refused."""
    load_execution(at)
    from flows.deploy.notifications import NOTIFICATION_RULES
    from flows.deploy.notifications import subscribe as tell_from_now_on

    names = tell_from_now_on(address, tuple(on) or tuple(NOTIFICATION_RULES))
    if as_json:
        print_json({"automations": names})
        return
    for name in names:
        console.print(f"set up   {name}", soft_wrap=True, markup=False)
