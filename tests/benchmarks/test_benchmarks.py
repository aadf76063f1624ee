"""The benchmarks run, and say what they should. How long anything takes is no test's business."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("psutil", reason="the `bench` extra is not installed")

from benchmarks.__main__ import main
from benchmarks.account import Account, Outcome
from benchmarks.catalog import QUESTIONS
from benchmarks.effort import TINY
from benchmarks.question import Column, Contender, Question
from benchmarks.rounds import rotated
from benchmarks.table import as_table

OURS = Contender("ours", "subject", ours=True)
PEER = Contender("peer", "subject")
ABSENT = Contender("absent", "subject", needs=("no-such-distribution",))
QUESTION = Question(
    name="cost",
    asks="what does it cost?",
    contenders=(OURS, PEER, ABSENT),
    columns=(Column("time", "time, us", target=10.0), Column("added", "added, us", has_ratio=False)),
    measure=lambda contender, effort: {},
)


def account_of(ours: float) -> Account:
    return Account(
        QUESTION,
        {
            "ours": Outcome(values=[{"time": ours, "added": 0.0}, {"time": ours, "added": 0.5}]),
            "peer": Outcome(values=[{"time": 4 * ours, "added": 1.0}, {"time": 2 * ours, "added": 2.0}]),
            "absent": Outcome(missing=ABSENT.missing),
        },
    )


def representatives(question: Question) -> tuple[Contender, ...]:
    """Contenders with which every word of a subject, and each subject's every backend, is measured once: of `attacks`
    each attack, and each server, but not each attack on each server. Ours come before others."""
    seen = set[str]()
    chosen = set[str]()
    for contender in sorted(question.contenders, key=lambda contender: not contender.ours):
        first, *others = contender.subject.split(" ")
        if not seen >= (words := {first, *others, f"{first} {contender.backend}"}):
            seen |= words
            chosen.add(contender.name)
    return tuple(contender for contender in question.contenders if contender.name in chosen)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", QUESTIONS)
def test_each_question_is_answered_for_every_contender(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    written = tmp_path / "results.json"
    monkeypatch.setitem(QUESTIONS, name, replace(QUESTIONS[name], contenders=representatives(QUESTIONS[name])))

    status = main([name, "--rounds", "1", "--effort", TINY.name, "--json", str(written)])

    question = QUESTIONS[name]
    printed = capsys.readouterr().out
    report = json.loads(written.read_text())
    assert status == 0, printed
    assert report["rounds"] == 1
    assert report["effort"] == TINY.name
    answer = report["questions"][name]
    assert list(answer["contenders"]) == [contender.name for contender in question.contenders]
    for contender in question.contenders:
        assert contender.name in printed
        outcome = answer["contenders"][contender.name]
        assert outcome["status"] == ("not installed" if contender.missing else "measured")
        expected = set() if contender.missing else {column.key for column in question.columns}
        assert {key for values in outcome["rounds"] for key in values} == expected


def test_table_shows_medians_ratios_targets_and_who_is_not_installed() -> None:
    assert as_table(account_of(ours=8.0)).splitlines() == [
        "cost: what does it cost?",
        "",
        "             time, us   added, us",
        "ours             8.00        0.25",
        "peer     24.0 (3.00x)        1.50",
        "absent   not installed: no-such-distribution",
        "target          <= 10",
    ]


def test_only_ours_are_marked_for_missing_a_target() -> None:
    ours, peer = as_table(account_of(ours=11.0)).splitlines()[3:5]
    assert "11.0*" in ours
    assert "*" not in peer


def test_failed_contender_keeps_its_row_and_its_reason() -> None:
    account = account_of(ours=8.0)
    account.outcomes["peer"].failure = "ImportError: no spam"
    assert "peer     failed: ImportError: no spam" in as_table(account)
    assert account.to_json()["contenders"]["peer"]["status"] == "failed"


def test_each_round_begins_with_another_contender() -> None:
    begins = [rotated(QUESTION.contenders, number)[0].name for number in range(4)]
    assert begins == ["ours", "peer", "absent", "ours"]


def test_unknown_question_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["no_such_question"])
    assert "agent_run" in capsys.readouterr().err
