"""The commands that run the trials of a sweep again."""

import shlex
from collections.abc import Callable, Sequence
from typing import Any

from aigc_jax.core import config
from aigc_jax.errors import UserError
from aigc_jax.report.groups import SEED
from aigc_jax.sweep.plans import word
from aigc_jax.sweep.results import Results, Row


class Reruns:
    """Finds the `aigc train` command of a trial, into a new folder beside it.

    It is the recipe with what was typed for the whole sweep, and one word for every setting that
    still differs. The recipe is loaded with these words and held against the trial's config.json;
    where that fails, since the recipe is gone or has changed, it is the command as recorded.

    Args:
      found: the sweep.
    """

    def __init__(self, found: Results) -> None:
        self.found = found
        self._loaders: dict[tuple[str, ...], Callable[[Sequence[str]], Any]] = {}

    def of(self, rows: Sequence[Row]) -> tuple[list[str], bool]:
        """Returns the commands of trials that differ only in their seed, and whether it was checked
        that they give the trials' own configurations.
        """
        recipe, typed = self._typed(rows[0])
        own = self._differing(recipe, typed, rows[0]) if recipe else None
        if own is None:
            return [row.command for row in rows], False
        seed = word(SEED, "")
        commands = []
        for row in rows:
            words = [w for w in (*typed, *own) if not w.startswith(seed)]
            words += [word(SEED, row.seed), f"--workdir={row.path}-again"]
            commands.append(shlex.join(["aigc", "train", recipe, *words]))
        return commands, True

    def _differing(self, recipe: str, typed: list[str], row: Row) -> list[str] | None:
        """What is to be typed besides, None where that does not lead to the trial's configuration.

        Trials of one configuration differ in their seed alone, so one is asked about for all.
        """
        try:
            saved = config.from_json((row.path / "config.json").read_text(encoding="utf-8"))
            key = (recipe, *typed)
            if key not in self._loaders:
                self._loaders[key] = config.loader(recipe, typed)
            load = self._loaders[key]
            differs = config.diff(load(()), saved)
            own = [word(path, value) for path, _, value in differs if value is not config.ABSENT]
            return None if config.diff(load(own), saved) else own
        except (UserError, OSError, ValueError):
            return None

    def _typed(self, row: Row) -> tuple[str, list[str]]:
        """The recipe and the settings typed: of sweep.json, else of the recorded command."""
        if self.found.sweep is not None:
            return self.found.sweep.recipe, list(self.found.sweep.overrides)
        words = shlex.split(row.command)
        recipes = [w for w in words if w.split(":")[0].endswith(".py") and not w.startswith("-")]
        settings = [w for w in words if w.startswith("--config.") and "=" in w]
        return (recipes[-1] if recipes else ""), settings
