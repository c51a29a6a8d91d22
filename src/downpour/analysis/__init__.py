"""Tables and figures of finished runs.

`runs` finds and reads run directories, `configurations` groups runs that differ only by their seed, `statistics`
computes intervals, `curves` draws figures, `table` writes tables, `report` combines them for a sweep. Nothing here
imports pandas, scipy or matplotlib before it is used: training imports this package and must start quickly.
"""
