"""Each side of a comparison in a process of its own: its threads, memory and caches are not in the other's way."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from typing import Any, Self

Functions = Mapping[str, Callable[[], Any]]


class Side:
    """Functions made and called in a child process; while another side works, it waits and is idle.

    Args:
        make: importable; makes the functions, by name. They return what pickles.
        arguments: of `make`.
    """

    def __init__(self, make: Callable[..., Functions], *arguments: Any):
        context = multiprocessing.get_context("spawn")
        self._here, there = context.Pipe()
        self._process = context.Process(target=_serve, args=(there, make, arguments), daemon=True)
        self._process.start()
        there.close()
        self._receive()

    def call(self, name: str) -> Any:
        """The result of a function.

        Raises:
            SystemExit: the process has ended; it has said why.
        """
        self._here.send(name)
        return self._receive()

    def _receive(self) -> Any:
        try:
            return self._here.recv()
        except EOFError:
            self._process.join()
            raise SystemExit(f"a side of the benchmark ended with exit code {self._process.exitcode}; see above") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._here.close()  # ends its loop
        self._process.join()


def compare_losses(name: str, ours: Mapping[str, float], theirs: Mapping[str, float], largest: float) -> dict[str, float]:
    """Differences of each loss and relative difference of the gradient norm.

    Raises:
        SystemExit: one is above `largest`.
    """
    differences = {term: abs(ours[term] - theirs[term]) for term in theirs}
    differences["gradient_norm"] /= theirs["gradient_norm"]
    print(f"{name}: largest difference {max(differences.values()):.1e}; total {sum(ours.values()) - ours['gradient_norm']:.5f}")
    if not max(differences.values()) <= largest:
        raise SystemExit(f"{name}: the two sides differ: {differences}")
    return differences


def _serve(connection: Connection, make: Callable[..., Functions], arguments: tuple[Any, ...]) -> None:
    functions = make(*arguments)
    connection.send(None)
    while True:
        try:
            name = connection.recv()
        except EOFError:
            return
        connection.send(functions[name]())
