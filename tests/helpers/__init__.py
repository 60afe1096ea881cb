"""What several tests share: fake data, drawn networks, references, processes that are hurt."""

from pathlib import Path

ROOT = Path(__file__).parents[2]  # of the checkout: commands of other processes start here
FIXTURES = ROOT / "tests" / "fixtures"
