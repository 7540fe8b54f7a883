"""Long Range Arena (Tay et al. 2020, arXiv 2011.04006): tasks that are made by rule, or read from files at hand."""
