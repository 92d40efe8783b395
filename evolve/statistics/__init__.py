"""What scores on documents say, and what they do not: errors, intervals, floors, and which genes mattered."""
