"""What the looking tools show: contact sheets of data, plans of configs, comparisons of runs."""
