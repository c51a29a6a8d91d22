"""How a run scales: measured by running it with several numbers of processes, and as a cost model has it."""
