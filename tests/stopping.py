"""Programs of benchmarks/ that are stopped, and go on when they are started again."""

import pytest


def stop_and_go_on(program, made_up, stop_after, path, monkeypatch):
    """Stop a program after some runs and start it again; return the arguments of all its runs.

    `made_up` stands for a run, and the record is written to `path`.
    """
    done = []

    def run(*arguments):
        done.append(arguments)
        return made_up(*arguments)

    def until_stopped(*arguments):
        if len(done) == stop_after:
            raise KeyboardInterrupt
        return run(*arguments)

    monkeypatch.setattr("sys.argv", ["program", "--short", "--output", str(path)])
    monkeypatch.setattr(program, "run", until_stopped)
    with pytest.raises(SystemExit, match="same command goes on"):
        program.main()
    monkeypatch.setattr(program, "run", run)
    program.main()
    return done
