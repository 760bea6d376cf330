from lakehouse.api.metrics import Metrics
from lakehouse.api.problems import KINDS


def test_every_kind_of_refusal_is_told_before_the_first_so_that_a_rate_sees_that_one() -> None:
    page = Metrics().page().decode()
    assert KINDS
    assert [kind.name for kind in KINDS if f'lakehouse_api_refused_total{{reason="{kind.name}"}} 0.0' not in page] == []
