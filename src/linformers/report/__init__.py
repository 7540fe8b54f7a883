"""Result files, plots, and one self-contained HTML page made from them."""
