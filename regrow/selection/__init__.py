"""Decides how many neurons are kept (budget), when (schedule) and which (index_set)."""
