"""Tables, plots and REPORT.md from the results of a run."""
