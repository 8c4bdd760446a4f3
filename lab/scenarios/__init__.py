"""What is done to the store and to its processes. A scenario is a plan of faults over a `lab.drive.Drive`.

To add one: a function that takes a drive and plans its faults, and a line in `SCENARIOS`. A deployment of its own (one
that fails over, say) is a `Place`, named by the line's ``place``, whose faults the function finds there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lab import deployments
from lab.checker import Broken
from lab.drive import Drive
from lab.history import History
from lab.places import Place, PostgresOnSmallDisk, SqliteOnSmallDisk
from lab.scenarios import clocks, crowds, failovers, network, processes, servers, storms
from lab.settings import Settings

ALL = ("sqlite", "redis", "postgres")
NETWORKED = ("redis", "postgres")


#: A run that measures instead of counting answers: a store and how many; what was seen, and what was broken.
Measured = Callable[[Place, int], tuple[dict[str, Any], list[Broken]]]


@dataclass(frozen=True)
class Scenario:
    """One kind of fault.

    Parameters:
        says: what is done, in words, for the table.
        plan: plans the faults of a run before it begins.
        stores: where it makes sense.
        left_out: those of them that `make test` leaves to `make lab`.
        settings: what clients ask for; the number of operations is the run's.
        small, large: how many operations in `make test` and in `make lab`.
        measured: what is done instead, where the subject is one process that has very much to do.
        storm: what is done instead, where a server has worker processes of its own, and clients know none of them.
        places: other places for stores than `PLACES` has.
    """

    says: str
    plan: Callable[[Drive], None] | None = None
    stores: tuple[str, ...] = ALL
    settings: Settings = field(default_factory=Settings)
    left_out: tuple[str, ...] = ()
    small: int = 60
    large: int = 800
    measured: Measured | None = None
    storm: Callable[[Place, Settings, int], tuple[History, list[Broken]]] | None = None
    places: Mapping[str, type[Place]] = field(default_factory=dict)

    def operations(self, store: str, *, is_small: bool) -> int:
        """How many a run has. SQLite has fewer scenarios, so that each is longer."""
        return self.small if is_small else self.large * (2 if store == "sqlite" else 1)


#: Where a replica may take the primary's place.
DEPLOYMENTS = {kind.name: kind for kind in (deployments.Sentinels, deployments.Cluster, deployments.Name)}

#: Which claims and ends are hit, and by what.
DEATHS = (("raises", 0.05), ("releases", 0.03), ("dies first", 0.01), ("dies last", 0.02))

SCENARIOS: dict[str, Scenario] = {
    "kills": Scenario(
        "processes are killed (kill -9) at any moment, and kill themselves before and after their effect",
        processes.kills,
        # Results of two lives: a takeover must not go by the life of another claim.
        settings=Settings(fates=DEATHS, ttls=(600.0, 300.0)),
        large=3000,
    ),
    "stops": Scenario(
        "processes stand still (SIGSTOP) for longer than the lease, in the middle of what they do",
        processes.stops,
        settings=Settings(longest=1.5, fates=(("raises", 0.15), ("releases", 0.03))),
    ),
    "cuts": Scenario(
        "the proxy closes connections before and after a command was executed",
        network.cuts,
        NETWORKED,
    ),
    "swallows": Scenario(
        "commands and answers vanish for a time, then connections are cut",
        network.swallows,
        NETWORKED,
        left_out=("postgres",),
    ),
    "delays": Scenario(
        "answers are held beyond the time limit, of one process or of all",
        network.delays,
        NETWORKED,
    ),
    "late-claims": Scenario(
        "the answer to a claim comes when its lease has ended, and another process works",
        network.late_claims,
        ("redis",),
        settings=Settings(time_limit=4.0, longest=1.5, patience=0.3, refuse=0.2),
    ),
    "partitions": Scenario(
        "one process does not reach the store for longer than the lease, and works on",
        network.partitions,
        NETWORKED,
        settings=Settings(longest=1.5, fates=(("raises", 0.15), ("releases", 0.03))),
    ),
    "pieces": Scenario(
        "packets are split into single bytes, merged and delayed",
        network.pieces,
        NETWORKED,
        settings=Settings(fates=DEATHS, ttls=(600.0, 300.0)),
        left_out=("postgres",),
    ),
    "holes": Scenario(
        "nobody reaches the store for seconds, with half of the work ending meanwhile",
        network.holes,
        NETWORKED,
        settings=Settings(longest=2.0),
    ),
    "restarts": Scenario(
        "the server is killed, ended or stopped, and comes back with its data",
        servers.restarts,
        NETWORKED,
        settings=Settings(longest=2.0),
    ),
    "alone": Scenario(
        "the same holes, with one process: nobody else sees the store before or after",
        network.holes,
        NETWORKED,
        settings=Settings(longest=2.0, workers=1),
        left_out=("postgres",),
    ),
    "forks": Scenario(
        "processes fork in the middle of what they do, and are killed", processes.forks, left_out=("redis",)
    ),
    "scripts": Scenario("the server forgets its scripts (SCRIPT FLUSH)", servers.scripts, ("redis",)),
    "losses": Scenario("the server loses everything (FLUSHALL)", servers.losses, ("redis",)),
    "memory": Scenario("the server is out of memory (maxmemory)", servers.memory, ("redis",)),
    "disk": Scenario(
        "the disk is full",
        servers.disk,
        ("sqlite", "postgres"),
        places={"sqlite": SqliteOnSmallDisk, "postgres": PostgresOnSmallDisk},
    ),
    "read-only": Scenario(
        "the disk is read-only for a time", servers.read_only, ("sqlite",), places={"sqlite": SqliteOnSmallDisk}
    ),
    "clocks": Scenario(
        "wall clocks of processes are an hour ahead or behind, or jump, and processes are killed",
        clocks.clocks,
        # On SQLite a result lives by the wall clock.
        settings=Settings(fates=DEATHS, ttls=(86400.0,), longest=1.0),
        left_out=("postgres",),
    ),
    "failovers": Scenario(
        "a replica takes the place of the primary, which is killed, stands still or is well",
        failovers.failovers,
        (*DEPLOYMENTS, *(f"{name}-confirmed" for name in DEPLOYMENTS)),
        # A failover takes longer than a lease where others have the machine too.
        settings=Settings(lease=2.0, clients=64, longest=1.0),
        left_out=("sentinels-confirmed", "cluster-confirmed"),
        large=1500,
        places={place.name: place for kind in DEPLOYMENTS.values() for place in (kind, deployments.confirmed(kind))},
    ),
    "far-side": Scenario(
        "a replica, which lags at times, is promoted while some processes don't reach the primary and others do",
        failovers.far_side,
        ("name", "name-confirmed"),
        settings=Settings(lease=5.0, clients=64, longest=1.0, gives_up=90.0),
        large=1500,
        places={
            "name": deployments.OneReplica,
            "name-confirmed": deployments.confirmed(deployments.OneReplica),
        },
    ),
    "resharding": Scenario(
        "the slots of all keys move from node to node",
        failovers.resharding,
        ("cluster",),
        settings=Settings(clients=16),
        large=1500,
        places={"cluster": deployments.Slots},
    ),
    "gunicorn": Scenario(
        "gunicorn's workers are killed, under a Flask application",
        storm=storms.gunicorn,
        settings=Settings(fates=DEATHS, workers=1, lease=2.0, time_limit=1.0, patience=0.5),
        left_out=("sqlite", "postgres"),
        large=1000,
    ),
    "celery": Scenario(
        "a Celery worker's processes are killed, and now and then the whole worker; messages are acknowledged late",
        storm=storms.celery,
        settings=Settings(fates=DEATHS, workers=1, lease=2.0, time_limit=1.0, patience=1.0, clients=16),
        left_out=("sqlite", "postgres"),
        large=1000,
    ),
    "leases": Scenario(
        "one process holds this many claims for three leases; each lease is looked at in the server all the time",
        stores=("redis",),
        measured=crowds.leases,
        small=500,
        large=10_000,
    ),
    "cancelled": Scenario(
        "this many calls are cancelled, half of them with their claim on the wire, the others in their bodies",
        stores=("redis",),
        measured=crowds.cancelled,
        small=4000,
        large=20_000,
    ),
    "waiters": Scenario(
        "this many calls wait for the answer of one", stores=("redis",), measured=crowds.waiters, small=200, large=1000
    ),
    "keys": Scenario(
        "this many keys run to their end, in one process",
        stores=("redis",),
        measured=crowds.keys,
        small=5000,
        large=10**6,
    ),
}
