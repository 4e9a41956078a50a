"""A learned reward as a heat map, where the states lie in a grid."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from offrl.envs.vector import make_single
from offrl.errors import RequestError
from offrl.feeds.table import TableReward
from offrl.mdp import TabularMDP, grid_of, visits
from offrl.mdp.from_gymnasium import Grid
from offrl.reports.figures import save_picture
from offrl.runs.run import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ARROWS = ((0, -1), (1, 0), (0, 1), (-1, 0))
MOVES = {"FrozenLake": (0, 1, 2, 3), "CliffWalking": (3, 2, 1, 0)}
"""Which of the arrows (left, down, right, up) each action is, by the start of the environment's name."""
SMALLEST_SHARE = 1e-3
"""Cells that the policy enters less often than this, among all, get no arrow."""


def draw_reward(run: Run, destination: Path) -> Path | None:
    """Draw a run's learned reward, averaged over its seeds, beside the true one.

    Arrows are the learned policy's likeliest actions, where the environment's actions are known to be moves.

    Args:
        run: a run of irl.
        destination: the PNG file.

    Returns:
        the file; None where the environment's states don't lie in a grid.

    Raises:
        RequestError: the run's algorithm has no table of rewards, or the file is to be of another format.
        StoreError: the picture can't be written.
    """
    learned = TableReward.of(run)
    assert run.recipe.env is not None
    environment = make_single(run.recipe.env, frame_stack=1)
    grid = grid_of(environment)
    environment.close()
    if grid is None:
        return None
    figure = _draw(run, learned, grid)
    save_picture(figure, destination)
    return destination


def require_grid(run: Run, destination: Path) -> Path:
    """`draw_reward` for somebody who asked for it: raises RequestError where there is no grid to draw."""
    drawn = draw_reward(run, destination)
    if drawn is None:
        raise RequestError(
            f"the states of {run.recipe.env} don't lie in a grid, so there is no map of rewards",
            where=str(run.path),
            hint="read reward.json in the run, or draw a metric of it, such as --metric feature_error",
        )
    return drawn


def by_cell(learned: TableReward) -> NDArray[np.float64]:
    """The mean learned reward of each state: of entering it, or of acting in it as the policy does; [n].

    NaN where an episode can't enter it, or act in it.
    """
    table = np.where(_reachable(learned) > 0.0, learned.table, np.nan)
    if learned.agent.by_action:
        table = (table * learned.state.log_policy.exp().numpy()).sum(-1)
    cells: NDArray[np.float64] = table.mean(0)
    return cells


def true_by_cell(learned: TableReward) -> NDArray[np.float64] | None:
    """The true reward in the same terms, over actions and ways in alike; [n]."""
    mdp = learned.mdp
    if mdp.reward is None:
        return None
    place = mdp.origin // mdp.actions if learned.agent.by_action else mdp.target
    weight = mdp.probability * (_uniform_visits(mdp).flatten()[mdp.origin] > 0.0)
    count = torch.zeros(mdp.states, dtype=torch.float64).index_add_(0, place, weight)
    total = torch.zeros_like(count).index_add_(0, place, weight * mdp.reward)
    mean: NDArray[np.float64] = (total / count).numpy()
    return mean


def _reachable(learned: TableReward) -> NDArray[np.float64]:
    """Above zero where random actions may lead: [n], of states entered, or [n, m], of states and actions."""
    visited = _uniform_visits(learned.mdp)
    reached: NDArray[np.float64] = (visited if learned.agent.by_action else learned.mdp.entered(visited)).numpy()
    return reached


def _uniform_visits(mdp: TabularMDP) -> Tensor:
    policy = torch.full((mdp.states, mdp.actions), 1.0 / mdp.actions, dtype=torch.float64)
    found = visits(replace(mdp, horizon=None, discount=0.99), policy)
    # What isn't exactly zero in the solution of a linear system may be rounding.
    return found.clamp(min=1e-15) - 1e-15


def _draw(run: Run, learned: TableReward, grid: Grid) -> Figure:
    from matplotlib.figure import Figure

    what = "acting in a state" if learned.agent.by_action else "entering a state"
    true = true_by_cell(learned)
    panels = [(f"learned reward of {what}", by_cell(learned))]
    panels += [] if true is None else [(f"true reward of {what}, mean", true)]
    # Long grids stand above each other, so that cells stay large.
    wide = grid.columns > 2 * grid.rows
    size = 0.62 * max(grid.columns, 5), 0.62 * max(grid.rows, 3)
    rows, columns = (len(panels), 1) if wide else (1, len(panels))
    figure = Figure(figsize=(columns * (size[0] + 1.1), rows * (size[1] + 0.7) + 0.5), layout="constrained")
    axes = np.atleast_1d(figure.subplots(rows, columns)).reshape(-1)
    for index, (title, values) in enumerate(panels):
        _draw_cells(figure, axes[index], grid, values, title)
    _draw_arrows(axes[0], run, learned, grid)
    seeds = len(run.recipe.seeds)
    over = f", mean of {seeds} seeds" if seeds > 1 else ""
    figure.suptitle(f"{run.recipe.env}: {learned.agent.config.method}{over}", fontsize="medium")
    return figure


def _draw_cells(figure: Figure, axes: Axes, grid: Grid, values: NDArray[np.float64], title: str) -> None:
    cells = values.reshape(grid.rows, grid.columns)
    image = axes.imshow(cells, cmap="viridis")
    bar = figure.colorbar(image, ax=axes, fraction=0.05, pad=0.02)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=2, labelsize="x-small")
    axes.set_title(title, fontsize="small")
    axes.set_xticks(range(grid.columns))
    axes.set_yticks(range(grid.rows))
    axes.tick_params(length=0, labelsize="x-small")
    axes.set_xticks(np.arange(grid.columns + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(grid.rows + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.0)
    axes.tick_params(which="minor", length=0)
    axes.spines[:].set_visible(False)
    for row, letters in enumerate(grid.letters):
        for column, letter in enumerate(letters):
            axes.text(
                column - 0.42,
                row - 0.28,
                letter,
                fontsize="xx-small",
                color=_ink(image, cells[row, column]),
                va="center",
            )


def _ink(image: Any, value: float) -> str:
    """Black on bright cells, white on dark ones."""
    red, green, blue, _ = image.cmap(image.norm(value))
    return "black" if 0.3 * red + 0.6 * green + 0.1 * blue > 0.5 else "white"


def _draw_arrows(axes: Axes, run: Run, learned: TableReward, grid: Grid) -> None:
    assert run.recipe.env is not None
    moves = next((order for name, order in MOVES.items() if run.recipe.env.startswith(name)), None)
    if moves is None:
        return
    visited = learned.state.visits.sum(-1).mean(0)
    actions = learned.state.log_policy.exp().mean(0).argmax(-1)
    image, cells = axes.images[0], by_cell(learned)
    for state in torch.nonzero(visited > SMALLEST_SHARE * visited.sum()).flatten().tolist():
        row, column = divmod(state, grid.columns)
        down, right = ARROWS[moves[int(actions[state])]]
        axes.annotate(
            "",
            (column + 0.3 * right, row + 0.3 * down),
            (column - 0.3 * right, row - 0.3 * down),
            arrowprops={"arrowstyle": "->", "color": _ink(image, cells[state]), "linewidth": 1.4},
        )
