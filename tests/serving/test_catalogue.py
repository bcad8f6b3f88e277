import re
from dataclasses import replace
from itertools import pairwise

import pytest

from aimo2.errors import InputError
from aimo2.serving.catalogue import (
    CATALOGUE,
    DEFAULT_MODEL,
    HubFile,
    ModelFile,
    PackageParts,
    find_model,
)

each_model = pytest.mark.parametrize("model", CATALOGUE, ids=lambda model: model.name)


@each_model
def test_pieces_tile_the_file(model: ModelFile) -> None:
    pieces = model.pieces
    assert pieces[0].start == 0
    assert pieces[-1].stop == model.size
    assert all(left.stop == right.start for left, right in pairwise(pieces))
    assert {piece.size for piece in pieces[:-1]} <= {model.piece_size}
    assert 0 < pieces[-1].size <= model.piece_size


@each_model
def test_hashes_are_sha256(model: ModelFile) -> None:
    for digest in (model.sha256, *model.piece_sha256):
        assert re.fullmatch(r"[0-9a-f]{64}", digest)
    assert len(set(model.piece_sha256)) == len(model.piece_sha256)


@each_model
def test_the_hub_comes_first_and_packages_are_pinned(model: ModelFile) -> None:
    hub, parts = model.sources
    assert isinstance(hub, HubFile)
    assert isinstance(parts, PackageParts)
    assert re.fullmatch(r"[0-9.]+", parts.version)


@each_model
def test_each_piece_has_its_own_package(model: ModelFile) -> None:
    parts = model.sources[1]
    assert isinstance(parts, PackageParts)
    count = len(model.pieces)
    assert len({parts.project.format(n=n) for n in range(1, count + 1)}) == count


def test_one_piece_is_the_whole_file() -> None:
    model = find_model("smollm2-135m")
    assert model.piece_sha256 == (model.sha256,)


def test_names_and_files_are_unique() -> None:
    names = [name for model in CATALOGUE for name in (model.name, *model.aliases)]
    assert len(set(names)) == len(names)
    assert len({model.filename for model in CATALOGUE}) == len(CATALOGUE)


@pytest.mark.parametrize(
    "name", ["qwen2.5-coder-1.5b", "Qwen2.5-Coder-1.5B", "default", " default "]
)
def test_a_name_or_an_alias_finds_a_model(name: str) -> None:
    assert find_model(name) is DEFAULT_MODEL


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"'gpt-5'.*qwen2\.5-coder-0\.5b.*smollm2-135m"):
        find_model("gpt-5")


def test_a_missing_hash_is_refused() -> None:
    with pytest.raises(ValueError, match="21 hashes for 22 pieces"):
        replace(DEFAULT_MODEL, piece_sha256=DEFAULT_MODEL.piece_sha256[1:])
