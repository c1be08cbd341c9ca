"""What SeReNe and LOBSTER look at: layers with weights, and their pre-activations."""

from collections.abc import Callable

from torch import Tensor, nn

from survey_lib.mechanics.groups import CONV


def layers_of(model: nn.Module) -> dict[str, nn.Module]:
    """Convolutions and linear layers by path: what is shrunk and cut, never a norm."""
    return {n: m for n, m in model.named_modules() if isinstance(m, (*CONV, nn.Linear))}


class Listener:
    """Keeps the pre-activations of layers during a forward pass, channels on axis 1."""

    def __init__(self, layers: dict[str, nn.Module]):
        self.p: dict[str, Tensor] = {}
        self._handles = [m.register_forward_hook(self._hook(n)) for n, m in layers.items()]

    def _hook(self, name: str) -> Callable[..., Tensor]:
        def keep(module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
            axis = -1 if isinstance(module, nn.Linear) else 1
            self.p[name] = p = output.movedim(axis, 1)
            # on with a copy, because an activation in place would turn p into something else
            return p.clone().movedim(1, axis)

        return keep

    def close(self) -> None:
        """Take the hooks out."""
        for handle in self._handles:
            handle.remove()
