"""The papers' evaluations: which data sets, views and sizes, with the published numbers; see docs/paper-suites.md."""
