"""report.md, trials.csv, and rankings made anew from what is on record."""
