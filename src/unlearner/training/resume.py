"""Runs that can be cut off: where their checkpoints are, and what must stay the same."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from unlearner import processes
from unlearner.errors import Interrupted, UserError
from unlearner.output import CHECKPOINTS, Json
from unlearner.training.checkpoints import Checkpoints, Journal, has_checkpoint, read_run
from unlearner.training.trainer import Trainer


@dataclass(frozen=True)
class Resumable:
    """The folder of a run's results, in which its checkpoints are, and whether it goes on."""

    output: Path
    resume: bool = False

    @property
    def checkpoints(self) -> Path:
        """Where they are."""
        return self.output / CHECKPOINTS

    def trials(self, run: Mapping[str, object]) -> Path:
        """The file of the trials of a search; what it holds goes on with the run.

        Args:
            run: See `resuming`.

        Raises:
            UserError: It is of another run.
        """
        processes.together(Checkpoints(self.checkpoints, run).begin)
        return self.checkpoints / "search.jsonl"

    def begun(self, command: str) -> Json:
        """What the run that goes on was given; empty for a new run.

        Raises:
            UserError: There is none to go on with, or it is of another command.
        """
        if not self.resume:
            return {}
        run = read_run(self.checkpoints)
        if run.get("command") != command:
            raise UserError(
                f"--resume: the run in {self.output} is one of `unlearner {run.get('command')}`; "
                "go on with that command"
            )
        return run


@contextmanager
def resuming(
    trainer: Trainer,
    resumable: Resumable | None,
    run: Mapping[str, object],
    say: Callable[[str], None],
) -> Iterator[None]:
    """Let the training in the block be cut off, and go on where it was.

    Args:
        run: What must be the same when it goes on; plain values.

    Raises:
        UserError: It was not the same.
        Interrupted: The user wants to stop, and a checkpoint was saved.
    """
    if resumable is None:
        yield
        return
    checkpoints = Checkpoints(resumable.checkpoints, run)
    trainer.journal = Journal(checkpoints, trainer.settings.checkpoint_every, trainer.log.path)
    if resumable.resume:
        say(f"going on behind step {trainer.resume()}")
    try:
        with trainer.journal.stoppable():
            yield
    except (Interrupted, KeyboardInterrupt) as stop:
        if not has_checkpoint(resumable.checkpoints):
            raise
        raise Interrupted(
            f"{stop or 'interrupted'}; go on with --output {resumable.output} --resume"
        ) from None
