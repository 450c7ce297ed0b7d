"""``python -m service.tuning``: an ``Order`` on standard input, a ``Report`` as the last line on standard output."""

import sys

from service.errors import YolofoldError
from service.tuning.measure import measure
from service.tuning.process import Order, Report


def _main() -> None:
    try:
        report = Report(choice=measure(Order.model_validate_json(sys.stdin.buffer.read())))
    except YolofoldError as error:
        report = Report(failure=str(error))
    print(report.model_dump_json(), flush=True)


_main()
