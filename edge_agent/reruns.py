"""Controlled re-runs on what is served: when it is approved, in every tick, and when something is wrong."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_agent.hands import Hands, Standing
from edge_agent.healing.cache import HealedOutputs, healed
from edge_agent.healing.diagnosis import Evidence, Exam
from edge_agent.healing.signals import (
    Look,
    Reference,
    apart,
    apart_each,
    centroids_of,
    cosines,
    residuals,
    variation,
)
from edge_agent.serving import Answered
from learning_core.metrics.images import class_fidelity, out_of_range_share
from learning_core.params import Array
from protos.release import Variant

PROBED = 8  # golden requests in a tick
EXAMINED = 160  # and in an exam
ASKED_AGAIN = 16  # recent requests
LOOKED_AT = 30  # answers that drift and diversity are told from
TRIED = 12  # drawn of each condition to see which are poor
CANDIDATES = 48  # and of those that are to be healed
PROBE_SEED, EXAM_SEED = 0x0DEF, 0x0DE5
MOST = 0.5  # of the answers of a condition
NEAR = 0.15  # cosine that a healed output may lie below the usual
SAME = 1e-4  # 1 - SSIM that rounding may make


@dataclass(frozen=True, slots=True)
class Approval:
    """What the approved student did. images: [PROBED, C, H, W]; `pass_ms` by graph, filled as graphs are seen.

    `conditions`: those it is to be measured on, known to its release or learned well since.
    """

    identity: str
    conditions: tuple[int, ...]
    reference: Reference
    exam: Exam
    images: Array
    pass_ms: dict[str, float]


def approve(hands: Hands, standing: Standing, pass_ms: Mapping[str, float]) -> Approval:
    """Look at what is served as at something sound: its files were verified and a guard has measured it.

    `pass_ms`: what is known already of how long a pass of each graph takes.
    """
    usual, able = standing.intended[0].name, _able(hands, standing)
    noise, conditions = _golden(standing, able, EXAMINED, EXAM_SEED)
    samples = hands.draw(noise, conditions, usual, as_set=False)
    logits, features = standing.judge.look(samples)
    centroids = centroids_of(logits, features, conditions, standing.num_conditions)
    beside = residuals(features, conditions, centroids)[: 2 * LOOKED_AT]
    anchor = float(cosines(features, conditions, centroids).mean())
    reference = Reference(centroids, beside, max(variation(samples), 1e-6), anchor)
    exam = Exam(class_fidelity(logits, conditions), anchor, out_of_range_share(samples))
    noise, conditions = _golden(standing, able, PROBED, PROBE_SEED)
    images = hands.draw(noise, conditions, usual, as_set=False)
    took = [hands.ask([int(condition)], PROBE_SEED) for condition in conditions]
    approval = Approval(standing.identity, able, reference, exam, images, dict(pass_ms))
    learn_speed(approval, standing, took)
    return approval


def learn_speed(approval: Approval, standing: Standing, answers: Sequence[Answered]) -> None:
    """Remember what a pass of each graph takes, the first time that it answers."""
    answers = _drawn(standing, answers)
    for graph in {_live(standing, each).graph for each in answers} - approval.pass_ms.keys():
        took = [_pass_ms(standing, each) for each in answers if _live(standing, each).graph == graph]
        approval.pass_ms[graph] = max(float(np.median(took)), 1e-6)


def look(hands: Hands, standing: Standing, approval: Approval, fresh: Sequence[Answered]) -> Look:
    """One tick. `fresh`: answers to others since the last one."""
    recent = list(hands.recent())[-LOOKED_AT:]
    noise, conditions = _golden(standing, approval.conditions, PROBED, PROBE_SEED)
    drawn = hands.draw(noise, conditions, standing.intended[0].name, as_set=False)
    asked = hands.ask([int(each) for each in conditions], PROBE_SEED)
    again = hands.ask(fresh[-1].conditions, fresh[-1].seed) if fresh else None
    nothing: Array = np.empty((0, *standing.sample_shape), np.float32)
    samples: Array = np.concatenate([nothing, *(each.samples for each in recent)])
    features = standing.judge.look(samples)[1] if recent else approval.reference.residuals[:0]
    learn_speed(approval, standing, fresh)
    return Look(
        samples=samples,
        features=features,
        conditions=np.array([each.conditions[0] for each in recent], np.int64),
        fresh=len(fresh),
        slow=_slow(approval, standing, fresh),
        files_sound=hands.files_sound(),
        probe=apart(drawn, approval.images),
        live_probe=apart(asked.samples, _expected(hands, standing, asked, noise, drawn)),
        flicker=apart(again.samples, fresh[-1].samples) if again and again.variant == fresh[-1].variant else None,
    )


def evidence(hands: Hands, standing: Standing, approval: Approval) -> Evidence:
    """Every question of `diagnosis`, asked now."""
    usual = standing.intended[0]
    noise, conditions = _golden(standing, approval.conditions, PROBED, PROBE_SEED)
    drawn = hands.draw(noise, conditions, usual.name, as_set=False)
    asked, again = (hands.ask([int(each) for each in conditions], PROBE_SEED) for _ in range(2))
    changed = apart(drawn, approval.images)
    intended = drawn if asked.variant == usual.name else hands.draw(noise, conditions, asked.variant, as_set=False)
    as_set = hands.draw(noise, conditions, asked.variant, as_set=True)

    asked_by_others = [hands.ask(each.conditions, each.seed) for each in list(hands.recent())[-ASKED_AGAIN:]]
    repeated = asked_by_others or [hands.ask([int(each)], PROBE_SEED + place) for place, each in enumerate(conditions)]
    variant = repeated[-1].variant
    repeated = [each for each in repeated if each.variant == variant]  # as heat and needs change, so may the variant
    wanted = np.array([each.conditions[0] for each in repeated], np.int64)
    seeds = np.concatenate([_noise(standing, 1, each.seed) for each in repeated])
    live = np.concatenate([*(each.samples for each in repeated), asked.samples])
    set_now = np.concatenate([hands.draw(seeds, wanted, variant, as_set=True), as_set])
    direct = hands.draw(seeds, wanted, usual.name, as_set=False) if asked_by_others else live[:0]
    everything = np.concatenate([wanted, conditions])

    def anchors(samples: Array) -> NDArray[np.float64]:
        if not len(samples):
            return np.zeros(0)
        features = standing.judge.look(samples)[1]
        return cosines(features, everything[: len(samples)], approval.reference.centroids)

    slow = _slow(approval, standing, repeated) or 0.0
    usual_ms = approval.pass_ms.get(usual.graph, 0.0) * passes(usual)
    took_ms = [each.took_ms for each in _drawn(standing, repeated)]
    return Evidence(
        files_sound=hands.files_sound(),
        model=changed,
        exam=examine(hands, standing, approval) if changed > SAME else None,
        approved=approval.exam,
        sampler=apart(as_set, intended),
        flicker=apart(asked.samples, again.samples) if asked.variant == again.variant else 0.0,
        live=anchors(live),
        as_set=anchors(set_now),
        direct=anchors(direct),
        differs=apart_each(live, set_now) > SAME,
        usual_anchor=approval.reference.anchor,
        slow_pass=slow,
        slow_request=float(np.log2(max(float(np.median(took_ms)), 1e-6) / usual_ms)) if usual_ms and took_ms else 0.0,
    )


def examine(hands: Hands, standing: Standing, approval: Approval) -> Exam:
    """The exam of the approval, taken by the student of now."""
    noise, conditions = _golden(standing, approval.conditions, EXAMINED, EXAM_SEED)
    samples = hands.draw(noise, conditions, standing.intended[0].name, as_set=False)
    if not np.isfinite(samples).all():
        return Exam(0.0, -1.0, 1.0)
    logits, features = standing.judge.look(samples)
    anchor = float(cosines(features, conditions, approval.reference.centroids).mean())
    return Exam(class_fidelity(logits, conditions), anchor, out_of_range_share(samples))


def poor_conditions(hands: Hands, standing: Standing, approval: Approval, margin: float) -> tuple[int, ...]:
    """Which of the recently asked conditions the student does worse than usual by a margin of cosine."""
    wanted = np.unique([each.conditions[0] for each in hands.recent()]).astype(np.int64)
    if not len(wanted):
        return ()
    conditions = np.repeat(wanted, TRIED)
    samples = hands.draw(
        _noise(standing, len(conditions), EXAM_SEED + 1), conditions, standing.intended[0].name, as_set=False
    )
    found = cosines(standing.judge.look(samples)[1], conditions, approval.reference.centroids)
    means = found.reshape(len(wanted), TRIED).mean(axis=1)
    return tuple(int(each) for each in wanted[means < approval.reference.anchor - margin])


def heal_outputs(
    hands: Hands, standing: Standing, approval: Approval, conditions: Sequence[int]
) -> HealedOutputs | None:
    """Healed outputs of these conditions, drawn as intended; None when nothing good comes of it."""
    wanted = np.repeat(np.asarray(conditions, np.int64), CANDIDATES)
    if not len(wanted):
        return None
    noise = _noise(standing, len(wanted), EXAM_SEED + 2)
    samples = hands.draw(noise, wanted, standing.intended[0].name, as_set=False)
    logits, features = standing.judge.look(samples)
    least = approval.reference.anchor - NEAR
    found = healed(samples, features, logits, wanted, approval.reference.centroids, least)
    return found if len(found.outputs) else None


def passes(variant: Variant) -> int:
    """Passes of the student for one sample; guidance takes two in each step."""
    return variant.steps * (1 if variant.guidance == 1 else 2)


def _expected(hands: Hands, standing: Standing, asked: Answered, noise: Array, drawn: Array) -> Array:
    """What the door has to give for the golden requests. drawn: by the usual variant, as intended."""
    conditions = np.array(asked.conditions, np.int64)
    is_usual = asked.variant == standing.intended[0].name
    expected = (drawn if is_usual else hands.draw(noise, conditions, asked.variant, as_set=False)).copy()
    if standing.cache is not None:
        for place, condition in enumerate(asked.conditions):
            if (output := standing.cache.near(condition, noise[place])) is not None:
                expected[place] = output
    return expected


def _slow(approval: Approval, standing: Standing, answers: Sequence[Answered]) -> float | None:
    known = [each for each in _drawn(standing, answers) if _live(standing, each).graph in approval.pass_ms]
    if not known:
        return None
    ratios = [_pass_ms(standing, each) / approval.pass_ms[_live(standing, each).graph] for each in known]
    return float(np.log2(max(float(np.median(ratios)), 1e-6)))


def _drawn(standing: Standing, answers: Sequence[Answered]) -> Sequence[Answered]:
    """Those that the student drew, not taken from healed outputs."""
    kept = standing.cache.conditions() if standing.cache is not None else frozenset()
    return [each for each in answers if not kept.issuperset(each.conditions)]


def _pass_ms(standing: Standing, answered: Answered) -> float:
    return answered.took_ms / passes(_live(standing, answered)) / len(answered.conditions)


def _live(standing: Standing, answered: Answered) -> Variant:
    return next((each for each in standing.live if each.name == answered.variant), standing.live[0])


def _able(hands: Hands, standing: Standing) -> tuple[int, ...]:
    """The known conditions, and others of which a judge accepts most answers: learned on this device or with others."""
    others = sorted(set(range(standing.num_conditions)) - set(standing.known))
    if not others:
        return standing.known
    conditions = np.repeat(np.array(others, np.int64), TRIED)
    noise = _noise(standing, len(conditions), EXAM_SEED + 3)
    logits, _ = standing.judge.look(hands.draw(noise, conditions, standing.intended[0].name, as_set=False))
    accepted = (logits.argmax(axis=1) == conditions).reshape(len(others), TRIED).mean(axis=1)
    return (*standing.known, *(other for other, share in zip(others, accepted, strict=True) if share > MOST))


def _golden(standing: Standing, able: tuple[int, ...], count: int, seed: int) -> tuple[Array, NDArray[np.int64]]:
    conditions = np.resize(np.asarray(able, np.int64), count)
    return _noise(standing, count, seed), conditions


def _noise(standing: Standing, rows: int, seed: int) -> Array:
    """The noise that the door draws for a request with this seed."""
    return np.random.default_rng(seed).standard_normal((rows, *standing.sample_shape), np.float32)
