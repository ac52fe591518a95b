"""The utilities of a team's agents, Q_i(tau_i, u_i): whole sequences in one call."""

import itertools

import torch
from torch import Tensor, nn


class Agents(nn.Module):
    """Q_i(tau_i, .) of A agents, from what each has seen: its observations, its last action, its number.

    The weights are of one network for all, or of one for each agent. A network is a stack of linear layers with ReLU,
    or with `recurrent` its last hidden layer is a GRU, which remembers what the agent saw.

    Args:
        num_agents, observation_size, num_actions: A, D and K.
        hidden: widths; () for a linear function, which of a constant observation is a table.
        recurrent: whether the last hidden layer is a GRU.
        shared: whether all agents have one network.
        last_action, agent_id: whether the one-hot last action and number of an agent are part of its input.
        quantiles: M, of the return of each action, for distributional methods.
        horizon: steps of an episode, of which the share that is over is part of the input; 0 leaves it out. An agent
            that must act before a time limit has to know the time (Pardo et al. 2018, arXiv:1712.00378, section 2).

    Raises:
        ValueError: if a size is not positive, or a GRU has no width.

    References:
        Rashid et al. 2018, arXiv:1803.11485, appendix C.
    """

    def __init__(
        self,
        num_agents: int,
        observation_size: int,
        num_actions: int,
        hidden: tuple[int, ...] = (64, 64),
        recurrent: bool = False,
        shared: bool = True,
        last_action: bool = True,
        agent_id: bool = True,
        quantiles: int = 1,
        horizon: int = 0,
    ) -> None:
        super().__init__()
        if horizon < 0:
            raise ValueError(f"horizon must be at least 0, got {horizon}")
        if min(num_agents, observation_size, num_actions, quantiles, *hidden) < 1:
            raise ValueError(f"num_agents, observation_size, num_actions, quantiles and hidden must be positive, got "
                             f"{(num_agents, observation_size, num_actions, quantiles, hidden)}")  # fmt: skip
        if recurrent and not hidden:
            raise ValueError("recurrent agents need a hidden width, got hidden ()")
        self.num_agents, self.num_actions, self.quantiles = num_agents, num_actions, quantiles
        self.last_action, self.agent_id, self.shared, self.horizon = last_action, agent_id, shared, horizon
        inputs = observation_size + num_actions * last_action + num_agents * agent_id + (horizon > 0)
        sizes = inputs, hidden, recurrent, num_actions * quantiles
        self.networks = nn.ModuleList(_Network(*sizes) for _ in range(1 if shared else num_agents))
        self.memory_size = hidden[-1] if recurrent else 0

    def forward(
        self, observations: Tensor, last: Tensor, memory: Tensor | None = None, start: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Utilities of T steps, and the memory after them.

        Args:
            observations: (T, N, A, D). last: (T, N, A) int64, the actions before them; -1 where there was none.
            memory: (N, A, H) before the first step; None at the beginning of an episode.
            start: the number of the first step in its episode.

        Returns:
            (T, N, A, K, M) and (N, A, H).
        """
        inputs = self.inputs(observations, last, start)
        count, agents = inputs.shape[1:3]
        if memory is None:
            memory = inputs.new_zeros(count, agents, self.memory_size)
        if self.shared:
            values, memory = self.networks[0](inputs.flatten(1, 2), memory.flatten(0, 1))
            values, memory = values.unflatten(1, (count, agents)), memory.unflatten(0, (count, agents))
        else:
            each = [network(inputs[:, :, i], memory[:, i]) for i, network in enumerate(self.networks)]
            values, memory = torch.stack([v for v, _ in each], 2), torch.stack([m for _, m in each], 1)
        return values.unflatten(-1, (self.num_actions, self.quantiles)), memory

    def inputs(self, observations: Tensor, last: Tensor, start: int = 0) -> Tensor:
        """(T, N, A, D) and (T, N, A) -> (T, N, A, what an agent sees)."""
        parts = [observations]
        if self.last_action:
            taken = last[..., None] == torch.arange(self.num_actions, device=last.device)  # -1: zeros
            parts.append(taken.to(observations.dtype))
        if self.agent_id:
            numbers = torch.eye(self.num_agents, dtype=observations.dtype, device=observations.device)
            parts.append(numbers.expand(*observations.shape[:2], -1, -1))
        if self.horizon:
            parts.append(self.time(observations, start)[:, None, None].expand(*observations.shape[:3], 1))
        return torch.cat(parts, -1)

    def time(self, observations: Tensor, start: int = 0) -> Tensor:
        """The share of the episode that is over at each of T steps, (T, 1)."""
        steps = start + torch.arange(len(observations), dtype=observations.dtype, device=observations.device)
        return (steps / self.horizon).clamp(max=1)[:, None]


class _Network(nn.Module):
    """(T, B, inputs) and (B, H) -> (T, B, outputs) and (B, H)."""

    def __init__(self, inputs: int, hidden: tuple[int, ...], recurrent: bool, outputs: int) -> None:
        super().__init__()
        widths = [inputs, *hidden[:-1]] if recurrent else [inputs, *hidden]
        self.trunk = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))
        self.memory = _GRU(widths[-1], hidden[-1]) if recurrent else None
        self.head = nn.Linear(hidden[-1] if hidden else inputs, outputs)

    def forward(self, x: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        for layer in self.trunk:
            x = layer(x).relu()
        if self.memory is not None:
            x, memory = self.memory(x, memory)
        return self.head(x), memory


class _GRU(nn.Module):
    """A GRU whose weights `torch.func.functional_call` can replace: `nn.GRU` keeps a second list of its own."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        first = nn.GRU(inputs, width)  # for its weights at the beginning
        self.weights = nn.ParameterList([parameter.detach() for parameter in first.parameters()])

    def forward(self, x: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        y, last = torch.gru(x, memory[None], [*self.weights], True, 1, 0.0, self.training, False, False)
        return y, last[0]
