"""The methods: frozen values that a user configures."""
