"""How answers are graded and counted: benchmarks' own rules, pass@k and maj@k, a second grader."""
