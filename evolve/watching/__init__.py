"""What is seen of a run: its log, its status, the bar on a terminal, and trackers."""
