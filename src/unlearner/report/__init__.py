"""A run's results as files that people read: report.json, report.html, report.md, a model card."""
