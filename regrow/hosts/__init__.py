"""The ways into the decode loop."""
