"""Finds the FFNs of a loaded model and patches its modules for a while."""
