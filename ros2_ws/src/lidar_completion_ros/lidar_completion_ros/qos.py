"""Quality of service of the node's topics, and the policies that parameters may override.

The override parameters are `qos_overrides.<topic>.<publisher|subscription>.<policy>`. rclpy writes them into the profile that
it is given, so each topic needs its own profile.
"""

from rclpy.qos import QoSPolicyKind, QoSProfile, QoSReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions


def input_qos() -> QoSProfile:
    """The newest sweep only; drivers publish best effort."""
    return QoSProfile(depth=1, reliability=QoSReliabilityPolicy.BEST_EFFORT)


def output_qos() -> QoSProfile:
    """Reliable, for both kinds of subscribers: RViz asks for reliable, most consumers of clouds for best effort."""
    return QoSProfile(depth=5, reliability=QoSReliabilityPolicy.RELIABLE)


def overrides() -> QoSOverridingOptions:
    """The policies that parameters may override."""
    return QoSOverridingOptions(
        (
            QoSPolicyKind.HISTORY,
            QoSPolicyKind.DEPTH,
            QoSPolicyKind.RELIABILITY,
            QoSPolicyKind.DURABILITY,
            QoSPolicyKind.DEADLINE,
            QoSPolicyKind.LIFESPAN,
            QoSPolicyKind.LIVELINESS,
            QoSPolicyKind.LIVELINESS_LEASE_DURATION,
        )
    )
