import pytest

from jax_irkd.runs.results import title_of


@pytest.mark.parametrize(
    "method, title",
    [
        ("at", "AT"),
        ("fitnet", "FitNet"),
        ("ours", "Ours (DKD + MGCAM)"),
        ("fitnet+dkd", "FitNet + DKD"),
        ("at+my_methods.mine", "AT + my_methods.mine"),
    ],
)
def test_a_method_is_called_as_its_authors_call_it(method, title):
    assert title_of(method) == title
