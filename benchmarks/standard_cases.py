"""How many of the standard's own node cases are differentiated, and whether central differences agree.

    python benchmarks/standard_cases.py [PATTERN] [--details] [--json FILE]

For each case of an operator with a derivative: ⟨v, Jᵀu⟩ with respect to each floating input, against central
differences in float64 where the case can be run so. Prints a row an operator, then the counts by outcome, then the
failures.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import warnings
from collections import Counter, defaultdict
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.autodiff.standard_cases import FAILED, PASSED, Result, check, standard_cases


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pattern", nargs="?", default="", help="a regular expression that the cases' names contain")
    parser.add_argument("--details", action="store_true", help="say why cases were skipped")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    results = [check(case) for case in standard_cases() if re.search(options.pattern, case.name)]
    _print(results, details=options.details)
    if options.json:
        options.json.write_text(json.dumps([asdict(result) for result in results], indent=1))


def _print(results: list[Result], *, details: bool) -> None:
    by_operator = defaultdict(list)
    for result in results:
        by_operator[result.operator].append(result)
    print("| operator | cases | checked | passed | largest error |\n|---|---|---|---|---|")
    for name, found in sorted(by_operator.items()):
        checked = [result for result in found if result.outcome in (PASSED, FAILED)]
        if checked:
            passed = sum(result.outcome == PASSED for result in checked)
            worst = max(result.error for result in checked)
            print(f"| {name} | {len(found)} | {len(checked)} | {passed} | {worst:.1e} |")
    print("\n| outcome | cases | operators |\n|---|---|---|")
    for outcome, count in Counter(result.outcome for result in results).most_common():
        names = Counter(result.operator for result in results if result.outcome == outcome)
        listed = ", ".join(f"{name} {n}" for name, n in sorted(names.items()))
        print(f"| {outcome} | {count} | {listed if outcome != PASSED else f'{len(names)} operators'} |")
    for result in results:
        if result.outcome == FAILED or (details and result.outcome != PASSED and result.details):
            print(f"\n{result.case}: {result.outcome}\n  " + "\n  ".join(result.details))


if __name__ == "__main__":
    main()
