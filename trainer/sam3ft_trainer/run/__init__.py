"""The loop and what keeps it honest: optimizer, schedule, progress, signals, watchdog, launcher."""
