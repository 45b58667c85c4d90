"""What fogs and cloud tell each other: who may speak, what is counted, what is newest.

Each answer rests on one transaction of the registry, so a process that dies at any point neither loses an aggregate
it acknowledged nor counts one twice.
"""

import hashlib
import threading
from collections.abc import Callable, Mapping

from cloud_server.config import Release
from cloud_server.consolidation import consolidate_at_s, release_is_due, screen
from cloud_server.ports import Clock, Registry, ReleaseRow
from learning_core.errors import Malformed, StateError
from learning_core.federation.aggregation import consolidate
from learning_core.params import Params, Shapes, zeros
from learning_core.updates import Aggregate, ModelVersion
from protos.cloud_messages import Ack, AckVerdict, Enrolment, Latest
from protos.codec import encode_params


def digest_of_secret(secret: str) -> str:
    """What is kept of a token or a credential: enough to recognise it, not enough to use it."""
    return hashlib.sha256(secret.encode()).hexdigest()


class Exchange:
    """Answers fogs. Holds only what the registry can give again, so it is rebuilt at each start.

    `shapes`: what is federated on each published release. `on_change` is called after every change, outside of locks.
    """

    def __init__(
        self,
        registry: Registry,
        rules: Release,
        shapes: Mapping[int, Shapes],
        now: Clock,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self._registry, self._rules, self._now, self._on_change = registry, rules, now, on_change
        self._shapes = dict(shapes)
        self._turn = threading.Lock()

    def enroll(self, enrolment: Enrolment) -> str | None:
        """Bind a fog's credential to its token; the reason when refused."""
        token = digest_of_secret(enrolment.token)
        refused = self._registry.enroll(token, enrolment.fog, enrolment.credential_sha256.hex(), self._now())
        if refused is None:
            self._on_change()
        return refused

    def fog_of(self, credential: str) -> str | None:
        return self._registry.fog_of(digest_of_secret(credential))

    def shapes_of(self, release: int) -> Shapes:
        """What an aggregate for `release` has to look like. Raises Malformed for a release that never was."""
        if release not in self._shapes:
            raise Malformed(f"there is no release {release}; the newest is {self.shared_version().release}")
        return self._shapes[release]

    def push(self, aggregate: Aggregate) -> Ack:
        """Count an aggregate, or say why not; the same (fog, round) again changes nothing."""
        digest = hashlib.sha256(
            f"{aggregate.base_version} {aggregate.expected_cohort!r}".encode() + encode_params(aggregate.delta)
        ).hexdigest()
        with self._turn, self._registry.transaction():
            ack = self._push(aggregate, digest)
        if ack.verdict is not AckVerdict.DUPLICATE:
            self._on_change()
        return ack

    def latest(self, known: ModelVersion) -> Latest:
        """The newest release and shared version; with the adapter when the asker's is older and it is not zero."""
        with self._turn:
            row, shared = self._registry.latest_release(), self.shared_version()
            distilling = self._registry.distilling() is not None
            adapter: Params | None = None
            if known < shared and shared.step > 0:
                adapter = self._registry.shared_adapter(shared)
        if row is None:
            return Latest(0, "", shared, None)
        return Latest(row.version, row.manifest_sha256, shared, adapter, distilling)

    def shared_version(self) -> ModelVersion:
        return self._registry.shared_version() or ModelVersion(0)

    def tick(self) -> float | None:
        """Consolidate what waited long enough; returns when to look again, in epoch seconds, None: when told to."""
        with self._turn, self._registry.transaction():
            changed = self._settle()
            again_at_s = self._consolidate_at_s()
        if changed:
            self._on_change()
        return again_at_s

    def conclude(self, row: ReleaseRow, shapes: Shapes | None) -> None:
        """Enter an examined candidate; with `shapes` it is published and becomes what new aggregates change."""
        now_s = self._now()
        with self._turn, self._registry.transaction():
            if any(each.made_from == row.made_from for each in self._registry.releases()):
                return
            outcome = "published" if row.evaluation.publish else "kept back"
            self._registry.end_distilling(outcome, now_s)
            self._registry.add_release(row)
            self._registry.add_audit(outcome, f"release {row.version}", now_s)
            if shapes is not None:
                self._registry.add_shared(ModelVersion(row.version), zeros(shapes), (), now_s)
                self._shapes[row.version] = shapes
        self._on_change()

    def give_up(self, reason: str) -> None:
        """Leave a distillation that cannot be done, and go on with the release there is."""
        with self._turn, self._registry.transaction():
            self._registry.end_distilling(f"failed: {reason}", self._now())
            self._registry.add_audit("distillation failed", reason, self._now())
        self._on_change()

    def _push(self, aggregate: Aggregate, digest: str) -> Ack:
        registry, shared, now_s = self._registry, self.shared_version(), self._now()
        if (before := registry.digest_of(aggregate.fog, aggregate.round)) is not None:
            if before[0] != digest:
                return Ack(AckVerdict.REFUSED, "this round was delivered before with other content", shared)
            return Ack(AckVerdict.REFUSED if before[1] else AckVerdict.DUPLICATE, before[1], shared)
        distilling = registry.distilling() is not None
        refused = screen(aggregate.base_version, shared, self._rules.max_staleness, distilling) or ""
        registry.add_aggregate(aggregate, digest, refused, now_s)
        registry.add_audit(
            "refused" if refused else "accepted", f"{aggregate.fog} round {aggregate.round} {refused}".rstrip(), now_s
        )
        self._settle()
        return Ack(AckVerdict.REFUSED if refused else AckVerdict.ACCEPTED, refused, self.shared_version())

    def _consolidate_at_s(self) -> float | None:
        return consolidate_at_s(self._registry.buffered(), self._registry.fogs(), self._rules.patience_s)

    def _settle(self) -> bool:
        at_s, registry, now_s = self._consolidate_at_s(), self._registry, self._now()
        if at_s is None or at_s > now_s:
            return False
        shared, aggregates = self.shared_version(), registry.buffered_aggregates()
        if shared.release == 0:
            raise StateError("aggregates wait, but no release was ever published; run `cloud init`")
        adapter = consolidate(registry.shared_adapter(shared), aggregates)
        newer = ModelVersion(shared.release, shared.step + 1)
        registry.add_shared(newer, adapter, [(each.fog, each.round) for each in aggregates], now_s)
        registry.add_audit("consolidated", f"{newer} from {len(aggregates)} aggregates", now_s)
        if release_is_due(newer.step, registry.last_attempt(newer.release), self._rules.steps_per_release):
            registry.begin_distilling(newer, now_s)
            registry.add_audit("distilling", str(newer), now_s)
        return True
