"""MTPB, the Multi-Turn Programming Benchmark: a program written over several turns, judged by what it prints last.

Protocol: docs/paper.md, section 5. The history starts with an import of NumPy; every turn adds its prompt as a comment, and
a completion cut by CodeGen's rules. The whole history is executed, and its last print compared by the official checker's
rules. One decision: two rates. `pass_rate` is upstream's average over all samples; `pass_rate_of_passable` leaves out the
cases that nothing can pass. Not covered: single-turn prompts and prompt perplexity.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import JsonValue

from components.core.errors import ConfigError
from components.evaluation.benchmark import execute, protocol, publish
from components.evaluation.completions import Completer, sample_seed
from components.evaluation.config import MtpbConfig
from components.evaluation.mtpb_defects import can_pass
from components.evaluation.mtpb_equivalence import equivalent
from components.evaluation.problems import MTPB_SHA256, MtpbProblem, load_mtpb
from components.evaluation.sandbox import NOTHING_PRINTED, Limits, Printed, Sandbox, Verdict
from components.evaluation.truncate import is_complete, truncate

CODE_VERSION = 2
"""2: calibrated limits of processor time that leave out imports, time-outs run twice, annotations evaluated."""

PREFIX = "# Import libraries.\n\nimport numpy as np\n\n"
"""What every history starts with (the official sampling script)."""
MEMORY_MIB = 2048
"""Address space of a program (measured: importing NumPy, pandas and scikit-learn takes 0.5 GiB of it)."""


class _History(NamedTuple):
    """One program in the making: a problem's case, and which of its samples."""

    problem: MtpbProblem
    case: int
    number: int
    text: str = PREFIX
    num_cut: int = 0


def run_mtpb(
    folder: Path,
    *,
    sampler: Completer,
    problems_file: Path,
    config: MtpbConfig,
    workers: int,
    seed: int,
    unsafe: bool = False,
) -> dict[str, JsonValue]:
    """Sample, execute and score the chosen problems; fills `folder` and returns the artifact's statistics.

    `workers` programs are executed at a time. Where no sandbox can be had, samples are drawn and written, `executed` is
    false and both rates are none; unless `unsafe` asks to execute without isolation then.

    Raises:
        EvaluationError: `problems_file` is not the pinned file, or HumanEval's own solutions do not pass here.
        ConfigError: a chosen problem does not exist, or nothing was chosen.
    """
    problems = _chosen(load_mtpb(problems_file), config)
    started = time.monotonic()
    histories = _draw(problems, sampler, config, seed)
    sampling_s = time.monotonic() - started
    limits = Limits(config.cpu_limit_s, MEMORY_MIB)

    def run(sandbox: Sandbox, sources: Sequence[str], calibrated: Limits) -> list[Printed]:
        return sandbox.last_prints(sources, calibrated)

    executed = execute(run, [history.text for history in histories], limits, workers=workers, unsafe=unsafe)
    verdicts = None if executed.results is None else _judge(histories, executed.results)
    results: dict[str, JsonValue] = {
        "num_problems": len(problems),
        "num_cases": len(config.cases),
        "num_samples": config.num_samples,
        "num_cut": sum(history.num_cut for history in histories),
        "temperature": config.temperature,
        "top_p": config.top_p,
        "seed": seed,
        **_rates(histories, verdicts),
        "passes": None if verdicts is None else _passes(histories, verdicts),
    }
    common = publish(
        folder,
        executed=executed,
        protocol=protocol(
            "mtpb",
            CODE_VERSION,
            limits,
            mode="split",  # what is expected never enters the process of a program
            problems_sha256=MTPB_SHA256,
            config=config.model_dump(mode="json"),
        ),
        results=results,
        samples=[_record(history, seed, verdicts[i] if verdicts else None) for i, history in enumerate(histories)],
        verdicts=verdicts,
        sampling_s=sampling_s,
    )
    shared = ("pass_rate", "pass_rate_of_passable", "num_problems", "num_cases", "num_samples", "num_cut")
    return {**common, **{name: results[name] for name in shared}}


def _chosen(problems: list[MtpbProblem], config: MtpbConfig) -> list[MtpbProblem]:
    wanted = None if config.problem_ids is None else set(config.problem_ids)
    chosen = [problem for problem in problems if wanted is None or problem.number in wanted]
    missing = sorted((wanted or set()) - {problem.number for problem in chosen})
    if missing or not chosen or not config.cases:
        raise ConfigError(
            f"MTPB has no problems {missing}" if missing else "MTPB is asked for no problem, or for no case",
            expected=f"numbers from 1 to {len(problems)}, and cases from 0 to 4",
            do="mend evaluation.mtpb.problem_ids or evaluation.mtpb.cases",
        )
    return chosen


def _draw(problems: list[MtpbProblem], sampler: Completer, config: MtpbConfig, seed: int) -> list[_History]:
    """Complete every history turn by turn; all those that take the same turn with the same length at once."""
    histories = [
        _History(problem, case, index)
        for problem in problems
        for case in config.cases
        for index in range(config.num_samples)
    ]
    for turn in range(max(len(problem.prompts) for problem in problems)):
        for most in sorted({problem.max_new_tokens for problem in problems}):
            here = [
                place
                for place, history in enumerate(histories)
                if turn < len(history.problem.prompts) and history.problem.max_new_tokens == most
            ]
            if here:
                taken = _take_turn([histories[place] for place in here], turn, most, sampler, config, seed)
                for place, history in zip(here, taken, strict=True):
                    histories[place] = history
    return histories


def _take_turn(
    histories: list[_History], turn: int, most: int, sampler: Completer, config: MtpbConfig, seed: int
) -> list[_History]:
    asked = [history.text + f"# {history.problem.turns(history.case)[turn]}\n" for history in histories]
    completions = sampler.complete(
        asked,
        seeds=[sample_seed(seed, "mtpb", one.problem.number, one.case, one.number, turn) for one in histories],
        max_new_tokens=min(most, config.max_new_tokens),
        temperature=config.temperature,
        top_p=config.top_p,
        should_stop=is_complete,
    )
    return [
        history._replace(text=f"{text}{truncate(completion)}\n\n", num_cut=history.num_cut + is_complete(completion))
        for history, text, completion in zip(histories, asked, completions, strict=True)
    ]


def _judge(histories: Sequence[_History], prints: Sequence[Printed]) -> list[Verdict]:
    return [
        judge(printed, history.problem.outputs[history.case]) for history, printed in zip(histories, prints, strict=True)
    ]


def judge(printed: Printed, expected: object) -> Verdict:
    """The verdict on a program. How it ended counts only where it printed nothing to compare, as upstream."""
    if printed.value is not NOTHING_PRINTED:
        return Verdict("passed" if equivalent(printed, expected) else "wrong_answer")
    return Verdict("no_print") if printed.end.passed else printed.end


def _rates(histories: Sequence[_History], verdicts: Sequence[Verdict] | None) -> dict[str, JsonValue]:
    """Fractions of samples that passed. Every case has as many samples, so this is the mean over problems, too."""
    passable = [place for place, history in enumerate(histories) if can_pass(history.problem.number, history.case)]
    rates: dict[str, JsonValue] = {"pass_rate": None, "pass_rate_of_passable": None, "num_passable": len(passable)}
    if verdicts is not None:
        rates["pass_rate"] = sum(verdict.passed for verdict in verdicts) / len(verdicts)
        if passable:
            rates["pass_rate_of_passable"] = sum(verdicts[place].passed for place in passable) / len(passable)
    return rates


def _passes(histories: Sequence[_History], verdicts: Sequence[Verdict]) -> dict[str, JsonValue]:
    """How many samples passed, by problem and case."""
    passes: dict[str, int] = {}
    for history, verdict in zip(histories, verdicts, strict=True):
        name = f"{history.problem.number}/{history.case}"
        passes[name] = passes.get(name, 0) + verdict.passed
    return dict(passes)


def _record(history: _History, seed: int, verdict: Verdict | None) -> dict[str, JsonValue]:
    """A line of samples.jsonl; `outcome` is none where nothing was executed. `seed` is that of the first turn."""
    return {
        "task_id": f"{history.problem.number}/{history.case}",
        "sample": history.number,
        "seed": sample_seed(seed, "mtpb", history.problem.number, history.case, history.number, 0),
        "completion": history.text,
        "num_cut": history.num_cut,
        "outcome": verdict.kind if verdict else None,
        "raised": verdict.type_name if verdict else None,
    }
