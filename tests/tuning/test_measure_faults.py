"""Servers, trackers and connections that fail while candidates are measured, on loopback."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from contextlib import contextmanager

import planted_kernels as plants
import psutil
import pytest
from rpc_cluster import Cluster

from smartmem_tvm.errors import DeviceError
from smartmem_tvm.tuning.measure import Job, MeasureLimits

pytestmark = [pytest.mark.device]

DOUBLED = Job("doubled", None)
SLOW = Job("doubled", plants.plant(plants.SLOW))
HANG = Job("doubled", plants.plant(plants.HANG))


@pytest.fixture
def cluster(opencl_device):
    """A tracker and servers that a test may end as it likes; nothing is left of them."""
    cluster = Cluster()
    yield cluster
    _, alive = cluster.stop()
    assert alive == []


@pytest.fixture
def remote(cluster, measure, planted):
    """Measure jobs on the cluster's servers with the key `key`."""

    def run(jobs, **options):
        options.setdefault("rpc", (cluster.address, "key"))
        return measure(jobs, builder=planted, **options)

    return run


def session_of(server):
    """The process that serves a session, None while there is none."""
    found = psutil.Process(server.pid).children()
    return found[0] if found else None


@contextmanager
def meanwhile(act):
    """Do something in another thread, given an event that is set once the block has ended.

    What it raises is raised here at the end, if nothing was.
    """
    failures, ended = [], threading.Event()

    def run():
        try:
            act(ended)
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(120)
    if failures:
        raise failures[0]


def wait_until(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to this"
        time.sleep(0.02)


def busy(process, seconds):
    """Whether a process has worked for so long since it started."""
    try:
        return process is not None and process.cpu_times().user > seconds
    except psutil.NoSuchProcess:
        return False


def session_at_work(server):
    """The process that serves a session, once it has worked for a second."""
    wait_until(lambda: busy(session_of(server), 1.0))
    return session_of(server)


def kill_at_work(server):
    """Kill a server and the session that it serves, once that has worked for a second."""
    session = session_at_work(server)
    server.kill()
    session.kill()


def statuses(found):
    return [outcome.status for _, outcome in found]


def test_a_server_measures_as_this_machine_does(cluster, remote, measure, opencl_info):
    cluster.start("key")
    jobs = [DOUBLED, Job("matmul", None), Job("doubled", plants.plant(plants.SCALED)), DOUBLED]
    found = remote(jobs)
    assert [job for job, _ in found] == jobs
    assert statuses(found) == ["ok", "ok", "wrong", "ok"]
    assert {outcome.device for _, outcome in found} == {opencl_info.name}
    assert {outcome.driver for _, outcome in found} == {opencl_info.driver_version}
    # The server is free again: no session was left behind.
    assert statuses(remote([DOUBLED])) == ["ok"]


@pytest.mark.slow
def test_a_session_process_is_killed(cluster, remote):
    server = cluster.start("key")
    with meanwhile(lambda _: session_at_work(server).kill()):
        found = remote([DOUBLED, SLOW, DOUBLED])
    assert Counter(statuses(found)) == {"ok": 3}
    assert Counter(job for job, _ in found) == {DOUBLED: 2, SLOW: 1}


@pytest.mark.slow
def test_a_server_is_killed_and_started_again(cluster, remote):
    server = cluster.start("key")

    def restart(_):
        kill_at_work(server)
        time.sleep(2.0)
        cluster.start("key")

    with meanwhile(restart):
        found = remote([DOUBLED, SLOW, DOUBLED])
    assert Counter(statuses(found)) == {"ok": 3}


@pytest.mark.slow
def test_a_tracker_is_restarted(cluster, remote):
    server = cluster.start("key")

    def restart(_):
        session = session_at_work(server)
        cluster.tracker.terminate()
        session.kill()  # nobody can connect anew now
        time.sleep(2.0)
        cluster.start_tracker_again()

    with meanwhile(restart):
        found = remote([SLOW, DOUBLED])
    assert Counter(statuses(found)) == {"ok": 2}


@pytest.mark.slow
def test_a_candidate_that_ends_its_server_each_time(cluster, remote):
    server = cluster.start("key")
    killed = []

    def crash(ended):
        # As a driver does that cannot stand the kernel: whatever runs for long is killed.
        while not ended.wait(0.02):
            session = session_of(server)
            if session not in killed and busy(session, 3.0):
                session.kill()
                killed.append(session)

    with meanwhile(crash):
        found = remote([HANG, DOUBLED])
    by_job = dict(found)
    assert (by_job[HANG].status, by_job[DOUBLED].status) == ("crash", "ok")
    assert "at each of 3 attempts: " in by_job[HANG].reason
    assert len(killed) == 3


@pytest.mark.slow
def test_a_hang_costs_the_session_and_no_more(cluster, remote):
    cluster.start("key")
    limits = MeasureLimits(seconds=10.0, load_seconds=20.0)
    # The server ends the session after fifty seconds, and is free then.
    found = remote([HANG, DOUBLED], limits=limits, patience_s=20.0)
    assert statuses(found) == ["timeout", "ok"]


@pytest.mark.slow
def test_a_slow_server_and_a_dead_one(cluster, remote):
    servers = [cluster.start("key") for _ in range(3)]
    servers[0].kill()
    slow = psutil.Process(servers[1].pid)

    def hold_back(ended):
        # It runs for a fifth of the time.
        while not ended.wait(0.02):
            try:
                family = [slow, *slow.children()]
                for process in family:
                    process.send_signal(signal.SIGSTOP)
                ended.wait(0.08)
                for process in family:
                    process.send_signal(signal.SIGCONT)
            except psutil.NoSuchProcess:
                pass

    jobs = [DOUBLED, SLOW, Job("matmul", None), Job("root", None)] * 3
    with meanwhile(hold_back):
        found = remote(jobs, servers=3)
    assert set(statuses(found)) == {"ok"}
    assert Counter(job for job, _ in found) == Counter(jobs)


@pytest.mark.slow
def test_all_servers_are_gone(cluster, remote):
    server = cluster.start("key")
    match = r"could be used for 5 s: \d+ connections were tried"
    found = []
    with meanwhile(lambda _: kill_at_work(server)), pytest.raises(DeviceError, match=match):
        remote([DOUBLED, SLOW, DOUBLED], found=found, patience_s=5.0)
    assert [(job, outcome.status) for job, outcome in found] == [(DOUBLED, "ok")]


def test_no_server_from_the_start(cluster, remote):
    with pytest.raises(DeviceError, match=r"no server with key 'key', for 1 s"):
        remote([DOUBLED], patience_s=1.0)
    with pytest.raises(DeviceError, match=r"127\.0\.0\.1:1: it cannot be reached"):
        remote([DOUBLED], patience_s=1.0, rpc=("127.0.0.1:1", "key"))
