"""Regrow as a model of lm-evaluation-harness. Only `model.py` needs lm-eval to be installed."""
