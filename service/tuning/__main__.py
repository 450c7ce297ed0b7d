"""``python -m service.tuning``: an ``Order`` as the argument, a ``Report`` as the last line on standard output."""

import sys

from service.errors import YolofoldError
from service.heap import map_large_blocks
from service.tuning.measure import measure
from service.tuning.process import Order, Report


def _main(order: str) -> None:
    map_large_blocks()  # as the server does, since it decides how long large blocks take
    try:
        report = Report(choice=measure(Order.model_validate_json(order)))
    except YolofoldError as error:
        report = Report(failure=str(error))
    print(report.model_dump_json(), flush=True)


if __name__ == "__main__":
    _main(*sys.argv[1:])
