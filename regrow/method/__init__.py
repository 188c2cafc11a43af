"""What to keep and when: frozen methods, pure schedules, the state they work on."""
