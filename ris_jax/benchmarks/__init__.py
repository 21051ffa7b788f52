"""Named benchmark suites: accuracy of the estimators next to the bound, and speed."""
