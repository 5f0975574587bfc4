"""How answers are graded and counted: each benchmark's own rules, pass@k and maj@k, a second grader
in its own process."""
