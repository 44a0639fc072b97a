"""What noisy labels reveal about the truth, from features in memory."""
