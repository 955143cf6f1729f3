from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from dpqlab.commands.terminal import Terminal
from dpqlab.distributed import Team, launched_rank, team_of
from dpqlab.errors import ConfigError
from tests.teams import in_team, launched


def member(team: Team, out: Path) -> None:
    """Check what three processes agree on."""
    mine = [torch.full((2, 3), float(team.rank)), torch.arange(4.0) * team.rank]
    team.sum_(mine)
    assert mine[0].tolist() == [[3.0] * 3] * 2
    assert mine[1].tolist() == [0.0, 3.0, 6.0, 9.0]
    team.average_(mine[:1])
    assert mine[0].tolist() == [[3.0] * 3] * 2
    other = [torch.tensor([team.rank]), torch.full((2,), team.rank, dtype=torch.uint8)]
    team.follow_(other)
    assert [part.tolist() for part in other] == [[0], [0, 0]]
    assert team.agreed(team.rank + 0.5) == 0.5
    assert team.agreed_text("é" * (team.rank + 1)) == "é"
    assert team.agreed_text("") == ""
    assert team.total(team.rank) == 3
    team.meet()
    (out / str(team.rank)).write_text(str(list(team.share(range(7)))))


def test_a_team_agrees_and_shares(tmp_path: Path) -> None:
    in_team(member, tmp_path, world=3)
    parts = [(tmp_path / str(rank)).read_text() for rank in range(3)]
    assert parts == ["[0, 3, 6]", "[1, 4]", "[2, 5]"]


def test_alone_nothing_changes() -> None:
    with team_of("cpu") as team:
        assert (team.rank, team.world, team.leads) == (0, 1, True)
        tensor = torch.arange(3.0)
        team.sum_([tensor])
        team.average_([tensor])
        team.follow_([tensor])
        assert tensor.tolist() == [0, 1, 2]
        assert team.agreed(2.5) == team.total(2.5) == 2.5
        assert team.agreed_text("x") == "x"
        assert list(team.share([1, 2])) == [1, 2]
        team.meet()


def test_nothing_is_exchanged_of_nothing() -> None:
    team = Team(rank=0, world=2, device=torch.device("cpu"))
    team.sum_([])
    team.average_([])


def test_a_launcher_that_sets_no_number_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(ConfigError, match="WORLD_SIZE is 'two'"), team_of("cpu"):
        pass


def test_the_first_alone_talks(capsys: pytest.CaptureFixture[str]) -> None:
    assert launched_rank() == 0
    for rank in (0, 1):
        with launched(rank, 2, 1):
            terminal = Terminal(as_json=True)
            terminal.emit({"rank": launched_rank()})
            terminal.say(f"I am {rank}")
            with terminal.progress("Working", 1) as meter:
                meter.advance()
    said = capsys.readouterr()
    assert said.out == '{\n  "rank": 0\n}\n'
    assert said.err == "I am 0\n"
    assert "RANK" not in os.environ


@pytest.mark.gpu
def test_each_takes_its_own_gpu() -> None:
    refused = pytest.raises(ConfigError, match="cuda, of which each takes")
    with launched(5, 8, 1), refused, team_of("cuda:0"):
        pass
    count = torch.cuda.device_count()
    refused = pytest.raises(ConfigError, match="has no GPU")
    with launched(count, count + 1, 1), refused, team_of("cuda"):
        pass
