"""Parts that every process needs: signals, clock, retry policy, health, telemetry, log throttle."""
