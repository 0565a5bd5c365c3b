"""Who gets what, at the least cost in all."""

from __future__ import annotations

from collections.abc import Sequence


def assign(costs: Sequence[Sequence[float]]) -> list[int]:
    """n rows of m >= n finite costs -> a column for each row, none twice, with the least sum: shortest augmenting paths with
    potentials (Jonker and Volgenant 1987), n^2 m steps. In plain Python: at the sizes of pictures, numpy's calls take longer."""
    n, m = len(costs), len(costs[0]) if costs else 0
    assert n <= m or not n, f"{n} rows need as many columns, there are {m}"
    of_row, of_column = [0.0] * n, [0.0] * (m + 1)  # potentials
    holder = [-1] * (m + 1)  # row of each column; the last column is the start of the path
    for row in range(n):
        holder[m], at = row, m
        least, before, done = [float("inf")] * m, [m] * m, [False] * (m + 1)
        while holder[at] >= 0:
            done[at] = True
            given, up, next_at, step = costs[holder[at]], of_row[holder[at]], -1, float("inf")
            for column in range(m):
                if not done[column]:
                    rest = given[column] - up - of_column[column]
                    if rest < least[column]:
                        least[column], before[column] = rest, at
                    if least[column] < step:
                        step, next_at = least[column], column
            for column in range(m + 1):
                if done[column]:
                    of_row[holder[column]] += step
                    of_column[column] -= step
                elif column < m:
                    least[column] -= step
            at = next_at
        while at != m:
            holder[at] = holder[before[at]]
            at = before[at]
    found = [-1] * n
    for column in range(m):
        if holder[column] >= 0:
            found[holder[column]] = column
    return found
