"""What happens in a fog, as lines for its log."""

from fog_aggregator import site, uplink


def line(event: site.Event) -> str:
    """What happened in the site's life, in one line."""
    match event:
        case site.Idle(reason):
            return f"idle: {reason}"
        case site.Opened(plan, again):
            word = "goes on" if again else "opens"
            return (
                f"round {plan.number} {word} on {plan.base_version}: {len(plan.cohort)} of {len(plan.enrolled)} chosen"
            )
        case site.Closed(outcome):
            left_out = len(outcome.declined), len(outcome.refused), len(outcome.silent)
            return (
                f"round {outcome.round} closed in {outcome.seconds:.2f} s: {len(outcome.accepted)} accepted,"
                f" {left_out[0]} declined, {left_out[1]} refused, {left_out[2]} silent; epsilon {outcome.epsilon:.4g}"
            )
        case site.Abandoned(number, reason):
            return f"round {number} abandoned: {reason}"
        case site.Settled(number, version, by_cloud):
            return f"round {number} settled {'by the cloud' if by_cloud else 'here alone'}; shared version {version}"


def exchange_line(event: uplink.Exchanged) -> str:
    """What came of an exchange with the cloud, in one line."""
    match event:
        case uplink.Delivered(number, ack):
            return f"round {number} delivered: {ack.verdict}" + (f" ({ack.reason})" if ack.reason else "")
        case uplink.ReleaseAdopted(release):
            return f"release {release.version} mirrored"
        case uplink.SharedAdopted(version):
            return f"shared adapter {version} adopted"
