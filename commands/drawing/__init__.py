"""Pictures, animations and clips."""
