"""How far an average is behind its student after each task of a stream of equal toy tasks."""

from __future__ import annotations

from dataclasses import replace
from statistics import fmean

from harness.checks.toys import SIZE, changes, make_engine, make_steps, random_examples, tiny_model, train
from harness.method.recipe import Recipe

#: The steps of a task, and tasks.
LAG_STEPS, TASKS = 16, 5
#: How much more an average may lag after one of the tasks from the second on than after another.  With one window it
#: does by 10 %; with a window that grows with the steps of the stream it more than doubles.  The first task is another
#: matter: there student and average start from one place, and the optimizer's moments from zero.
MOST_GROWTH = 1.4


def lags(kept: Recipe) -> list[float]:
    """After each task, the distance of average and student over the student's way in that task, mean over three rows.

    The tasks are random tokens, drawn alike: nothing can be learnt of them that would slow the student down.
    """
    model, rows = tiny_model(), range(3)
    engine = make_engine(model, kept, [1e-3] * len(rows), rows)
    student, average = replace(kept, scored="student"), replace(kept, scored="average")
    found = []
    for task in range(TASKS):
        if task:
            engine.end_task()
            engine.begin_task(task, [random_examples(40, row + 10 * task) for row in rows])
        start = [changes(model, engine.scored(row, student)) for row in rows]
        data = [random_examples(SIZE * LAG_STEPS, row + 10 * task) for row in rows]
        train(engine, make_steps(kept, data, LAG_STEPS, rows))
        end = [changes(model, engine.scored(row, student)) for row in rows]
        mean = [changes(model, engine.scored(row, average)) for row in rows]
        found.append(fmean(float((end[r] - mean[r]).norm() / (end[r] - start[r]).norm()) for r in rows))
    return found
