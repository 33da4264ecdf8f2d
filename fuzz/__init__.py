"""Coverage-guided fuzzing of everything that reads octets from outside: ``python -m fuzz``."""
