"""Statistics over counted episodes: cells, intervals, contrasts, early stopping, and the report."""
