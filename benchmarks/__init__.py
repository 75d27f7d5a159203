"""Measures the product beside a bare floor and its peers, all in one run; compare ratios, not seconds."""
