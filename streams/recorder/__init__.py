"""The recorder: writes every topic into the database exactly once and computes online metrics."""
