"""Access to the lifecycle state machine of rclpy, which has no public interface for it."""

from rclpy.lifecycle import LifecycleNode


def state_label(node: LifecycleNode) -> str:
    """unconfigured, inactive, active, finalized, or the label of a transition in progress."""
    return str(node._state_machine.current_state[1])


def allowed_transitions(node: LifecycleNode) -> dict[int, str]:
    """Id and label of the transitions that the current state allows."""
    return {transition[0]: transition[1] for transition in node._state_machine.available_transitions}
