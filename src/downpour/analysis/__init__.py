"""Tables and figures of finished runs.

`runs` finds and reads run directories, `configurations` puts the seeds of one experiment together,
`statistics` holds the intervals, `curves` the pictures, `table` the numbers, `report` all of it for one
sweep. Nothing here imports pandas, scipy or matplotlib before it is used: training imports this package and
must start quickly.
"""
