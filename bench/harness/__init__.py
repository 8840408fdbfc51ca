"""What runs the cases: a process a contender, alternating rounds, answers checked first."""
