"""Several processes, each making one run at a time."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from multiprocessing import connection, get_context
from typing import TYPE_CHECKING

from benchmarks.augmentation.plan import Planned
from benchmarks.augmentation.records import FAILED, STOPPED, Outcome
from benchmarks.augmentation.running import Perform

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess

    from benchmarks.augmentation.runner import Batch, Study

READY = "ready"
PATIENCE = 60.0
"""Seconds that runs have to come to rest after Ctrl-C."""


def work(pipe: connection.Connection, perform: Perform) -> None:
    """What a process does: take a run and its log, make it, say what became of it."""
    # Ctrl-C reaches all processes of a terminal, twice if it is also passed on, and the second stops a
    # training loop in the middle of a step. So these leave the terminal's group and wait for the parent.
    os.setpgrp()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        pipe.send(READY)
        while True:
            run, log = pipe.recv()
            pipe.send(perform(run, log))
    except (EOFError, BrokenPipeError, KeyboardInterrupt):
        return


@dataclass
class Worker:
    """A process, seen from outside."""

    process: SpawnProcess
    pipe: connection.Connection
    batch: Batch | None = None
    run: Planned | None = None
    ready: bool = False


class Workers:
    """The processes of a study."""

    def __init__(self, study: Study, jobs: int, perform: Perform) -> None:
        self.study, self.jobs, self.perform = study, jobs, perform
        self.all: list[Worker] = []

    def run(self) -> None:
        """Make all runs."""
        try:
            self.hand_out()
            while any(worker.batch for worker in self.all):
                self.listen()
                self.hand_out()
        except KeyboardInterrupt:
            self.stop()
            raise
        finally:
            for worker in self.all:
                worker.pipe.close()
                worker.process.join(PATIENCE)
                if worker.process.is_alive():
                    worker.process.terminate()

    def hand_out(self) -> None:
        """Give every process that has nothing to do a run, and start processes as they are needed."""
        while True:
            idle = next((worker for worker in self.all if worker.batch is None), None)
            if idle is None and len(self.all) == self.jobs:
                return
            batch = self.study.take()
            if batch is None:
                return
            worker = idle or self.start()
            worker.batch = batch
            self.next_run(worker)

    def start(self) -> Worker:
        """One more process."""
        context = get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=work, args=(theirs, self.perform))
        # Ignored from the start and until it is ready: half an import is no place to be interrupted.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            process.start()
        finally:
            signal.signal(signal.SIGINT, before)
        theirs.close()
        worker = Worker(process, ours)
        self.all.append(worker)
        return worker

    def next_run(self, worker: Worker) -> None:
        """The next run of its batch, if it is ready for one."""
        assert worker.batch is not None
        if not worker.ready or worker.run is not None:
            return
        if not worker.batch.runs:
            worker.batch = None
            return
        worker.run = worker.batch.runs.popleft()
        worker.pipe.send((worker.run, self.study.begin(worker.run)))

    def listen(self, seconds: float | None = None) -> None:
        """Wait until some process has something to say, and take it down."""
        by_pipe = {worker.pipe: worker for worker in self.all}
        for pipe in connection.wait(list(by_pipe), seconds):
            assert isinstance(pipe, connection.Connection)
            worker = by_pipe[pipe]
            try:
                said = pipe.recv()
            except (EOFError, ConnectionError):
                self.lost(worker)
                continue
            if said == READY:
                worker.ready = True
            else:
                self.end(worker, said)
            if worker.batch is not None:
                self.next_run(worker)

    def end(self, worker: Worker, outcome: Outcome) -> None:
        """Take down what became of its run."""
        assert worker.batch is not None
        assert worker.run is not None
        self.study.end(worker.batch, worker.run, outcome)
        worker.run = None
        if outcome.state == STOPPED:  # somebody else interrupted it: the others stop too
            raise KeyboardInterrupt

    def lost(self, worker: Worker) -> None:
        """A process that ended by itself: its run failed, the rest of its batch is for another one."""
        worker.process.join()
        self.all.remove(worker)
        worker.pipe.close()
        code = worker.process.exitcode
        if worker.run is None:
            raise RuntimeError(f"a process of the study ended with {code} before it could make anything")
        assert worker.batch is not None
        killed = ": killed, perhaps for want of memory" if code == -signal.SIGKILL else ""
        self.study.give_back(worker.batch)
        self.end(worker, Outcome(FAILED, error=f"the process ended with {code}{killed}"))

    def stop(self) -> None:
        """Let every run come to rest where it can be taken up again."""
        for worker in self.all:
            if worker.run is None:
                worker.process.terminate()
            elif worker.process.pid is not None:
                os.kill(worker.process.pid, signal.SIGINT)
        until = time.monotonic() + PATIENCE
        while any(worker.run for worker in self.all) and time.monotonic() < until:
            try:
                self.listen_for_rest(until - time.monotonic())
            except KeyboardInterrupt:  # pressed once more
                break
        for worker in self.all:
            worker.process.terminate()

    def listen_for_rest(self, seconds: float) -> None:
        """Take down what became of the runs that were stopped."""
        busy = {worker.pipe: worker for worker in self.all if worker.run is not None}
        for pipe in connection.wait(list(busy), seconds):
            assert isinstance(pipe, connection.Connection)
            worker = busy[pipe]
            assert worker.run is not None
            assert worker.batch is not None
            try:
                outcome = pipe.recv()
            except (EOFError, ConnectionError):
                outcome = Outcome(STOPPED, error="stopped by Ctrl-C")
            self.study.end(worker.batch, worker.run, outcome)
            worker.run = None
