"""Runs under faults: killed processes, outages, damaged records, faulty devices, a long run."""
