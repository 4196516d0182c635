"""How the encoder learns: configuration, views, schedules, and the loop."""
