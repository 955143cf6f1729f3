"""The good folders that the fuzzer starts from, made once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.fuzzing.judge import Judge, skeletons_once
from benchmarks.fuzzing.seeds import Files, make_seeds, model_config, read_files
from benchmarks.fuzzing.tally import judges_of


@pytest.fixture(scope="session")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Files]:
    made = make_seeds(tmp_path_factory.mktemp("seeds"))
    return {name: read_files(folder) for name, folder in made.items()}


@pytest.fixture(scope="session")
def judges(
    seeds: dict[str, Files], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Judge]]:
    with skeletons_once([model_config(files) for files in seeds.values()]):
        yield judges_of(seeds, tmp_path_factory.mktemp("judged"))
