"""What is said of a run: tables, plots, claims, and the page of all."""
