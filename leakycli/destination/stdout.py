"""Standard output as a destination: it is real as it is written, and nothing can be taken back."""

from __future__ import annotations

from typing import Any

from leakycli.destination.base import Destination


class StandardOutput(Destination):
    """What is written goes out at once; reports elsewhere appear once it is complete."""

    partial = "-"
    revocable = False
    identifiable = False
    resumable = False

    def __init__(self) -> None:
        super().__init__("-")

    @property
    def touched(self) -> tuple[str, ...]:
        return ("-",)

    @property
    def result(self) -> str:
        return "-"

    def _publish(self, digest: Any, bytes: int, warnings: tuple[str, ...]) -> None:
        pass
