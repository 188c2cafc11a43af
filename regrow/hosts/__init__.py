"""What drives a session: our decode loop, and the ways into it."""
