"""Scores of predictions against labels: pure functions of tensors."""
