"""NVIDIA graphics cards: what there is, and how busy it is. Asks `nvidia-smi`; knows no models."""

import os
import subprocess
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

_CARDS = "index,name,memory.total,memory.free,compute_cap,uuid"
_USAGE = "index,memory.used,utilization.gpu"
_APPS = "pid,gpu_uuid"
_SERVING_MIB = 1024
"""A card on which nobody has so much does not serve a language model."""


@dataclass(frozen=True, slots=True)
class Card:
    """One card. Memory in MiB; `capability`: (major, minor) of its compute capability.

    `named`: the user's own word for it in CUDA_VISIBLE_DEVICES, an index or a UUID; empty if none.
    """

    index: int
    name: str
    total_mib: int
    free_mib: int
    capability: tuple[int, int]
    uuid: str = ""
    named: str = ""

    @property
    def handle(self) -> str:
        """What CUDA_VISIBLE_DEVICES has to say for it."""
        return self.named or str(self.index)


@dataclass(frozen=True, slots=True)
class Usage:
    """Some cards together. `busy`: mean share of time with any work at all, between 0 and 1."""

    used_mib: int
    busy: float


def cards(timeout: float = 10.0) -> tuple[Card, ...]:
    """The cards that this process may use, in the order in which the user named them.

    None where `nvidia-smi` is missing, fails or hangs.
    """
    listing = _query(f"--query-gpu={_CARDS}", timeout)
    return visible(parse_cards(listing), os.environ.get("CUDA_VISIBLE_DEVICES"))


def occupied(found: Iterable[Card]) -> tuple[Card, ...]:
    """Those of the cards that hold something as large as a model."""
    return tuple(card for card in found if card.total_mib - card.free_mib >= _SERVING_MIB)


def used_by(
    processes: Collection[int], found: Iterable[Card], timeout: float = 10.0
) -> tuple[Card, ...]:
    """Those of the cards on which any of these processes computes.

    None where `nvidia-smi` does not tell, as in a container whose processes it numbers otherwise.
    """
    rows = _rows(_query(f"--query-compute-apps={_APPS}", timeout), 2)
    uuids = {row[1] for row in rows if row[0].isdigit() and int(row[0]) in processes}
    return tuple(card for card in found if card.uuid in uuids)


def usage(indices: Collection[int], timeout: float = 5.0) -> Usage | None:
    """What the cards of these indices do now; `None` where there are none.

    Blocks for some milliseconds.
    """
    seen = [
        row for row in parse_usage(_query(f"--query-gpu={_USAGE}", timeout)) if row[0] in indices
    ]
    if not seen:
        return None
    return Usage(sum(row[1] for row in seen), sum(row[2] for row in seen) / len(seen) / 100)


def parse_cards(listing: str) -> tuple[Card, ...]:
    """Cards of a CSV listing without header and units; lines that are none are skipped."""
    found = []
    for row in _rows(listing, 6):
        major, _, minor = row[4].partition(".")
        if row[0].isdigit() and row[2].isdigit() and row[3].isdigit() and major.isdigit():
            capability = (int(major), int(minor or 0))
            found.append(Card(int(row[0]), row[1], int(row[2]), int(row[3]), capability, row[5]))
    return tuple(found)


def parse_usage(listing: str) -> list[tuple[int, int, float]]:
    """(index, MiB used, percent busy) a card."""
    return [
        (int(row[0]), int(row[1]), float(row[2]))
        for row in _rows(listing, 3)
        if row[0].isdigit() and row[1].isdigit() and row[2].replace(".", "", 1).isdigit()
    ]


def _rows(listing: str, width: int) -> Iterable[Sequence[str]]:
    for line in listing.splitlines():
        row = [cell.strip() for cell in line.split(",")]
        if len(row) == width:
            yield row


def visible(found: Sequence[Card], wanted: str | None) -> tuple[Card, ...]:
    """Those that CUDA_VISIBLE_DEVICES allows, in its order; without it, all.

    Read as CUDA does: indices, or UUIDs that may be cut short; what stands behind the first entry
    that names no card, such as -1, does not count. Part of a card (MIG) has no memory here.
    """
    if wanted is None:
        return tuple(found)
    chosen = []
    for entry in (part.strip() for part in wanted.split(",")):
        card = _find(found, entry)
        if card is None:
            break
        chosen.append(replace(card, named=entry))
    return tuple(chosen)


def _find(found: Sequence[Card], entry: str) -> Card | None:
    if entry.startswith("MIG-"):
        return Card(-1, "MIG", 0, 0, (8, 0))  # the first that can be split up
    for card in found:
        if entry.isdigit() and int(entry) == card.index:
            return card
        if entry.startswith("GPU-") and card.uuid.startswith(entry):
            return card
    return None


def _query(question: str, timeout: float) -> str:
    try:
        return subprocess.run(
            ["nvidia-smi", question, "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=timeout,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
