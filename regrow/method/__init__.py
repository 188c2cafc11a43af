"""The pruning methods: frozen dataclasses that a user configures."""
