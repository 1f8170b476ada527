"""The node's services ~/set_steps, ~/reload_model and ~/reset, and a change_state that refuses invalid transitions."""

from __future__ import annotations

from collections.abc import Callable

from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.msg import ParameterType, SetParametersResult
from rcl_interfaces.srv import SetParametersAtomically
from rclpy.lifecycle import LifecycleNode
from rclpy.parameter import Parameter
from std_srvs.srv import Trigger

from lidar_completion_ros.lifecycle import allowed_transitions, state_label
from lidar_completion_ros.model_loader import ModelLoader


class Services:
    """Services of the node in every lifecycle state."""

    def __init__(self, node: LifecycleNode, loader: ModelLoader, reset: Callable[[], None]) -> None:
        self._node = node
        self._loader = loader
        self._reset_node = reset
        node.create_service(SetParametersAtomically, "~/set_steps", self._set_steps)
        node.create_service(Trigger, "~/reload_model", self._reload_model)
        node.create_service(Trigger, "~/reset", self._reset)
        self._change_state = node._service_change_state.callback
        node._service_change_state.callback = self._change_state_if_allowed

    def _set_steps(
        self, request: SetParametersAtomically.Request, response: SetParametersAtomically.Response
    ) -> SetParametersAtomically.Response:
        """Set `steps`, as `ros2 param set` would. The type is an existing ROS service type that can carry an integer."""
        given = request.parameters
        integer = ParameterType.PARAMETER_INTEGER
        if len(given) != 1 or given[0].name not in ("", "steps") or given[0].value.type != integer:
            reason = "expected one parameter 'steps' (the name may be empty) of type 2, an integer"
            response.result = SetParametersResult(successful=False, reason=reason)
            return response
        steps = Parameter("steps", value=given[0].value.integer_value)
        response.result = self._node.set_parameters_atomically([steps])
        return response

    async def _reload_model(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """Load the model again; answers when it is in use or has failed to load."""
        if self._loader.inference is None:
            response.message = f"the node is {state_label(self._node)}; configure it to load the model"
            return response
        error = await self._loader.reload()
        response.success, response.message = not error, error or f"model {self._loader.name} is in use"
        return response

    def _reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """Forget learned costs, memory limits, latencies and motion. The counts are kept."""
        self._reset_node()
        response.success = True
        return response

    def _change_state_if_allowed(
        self, request: ChangeState.Request, response: ChangeState.Response
    ) -> ChangeState.Response:
        """Refuse transitions that the current state does not allow; rclpy's own service raises an exception, which would end the node."""
        wanted = request.transition
        allowed = allowed_transitions(self._node)
        if wanted.label not in allowed.values() if wanted.label else wanted.id not in allowed:
            transition = wanted.label or wanted.id
            state = state_label(self._node)
            self._node.get_logger().warning(f"transition {transition} is not possible while {state}")
            response.success = False
            return response
        return self._change_state(request, response)
