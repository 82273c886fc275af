"""A report of one run, or a comparison of several: uv run python -m rlhf.report RUN [RUN ...]"""

import argparse
import sys
from collections.abc import Sequence

from rlhf.config.paths import user_path
from rlhf.errors import run_main


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m rlhf.report",
        description="One run: write its report. Several runs: compare them; seeds of one config become one line.",
    )
    parser.add_argument("runs", nargs="+", type=user_path, metavar="RUN", help="run directory, such as runs/grpo-seed0")
    parser.add_argument(
        "--output",
        type=user_path,
        metavar="FILE.html",
        help="page to write (default: RUN/report.html, or comparison.html beside the first run)",
    )
    parser.add_argument("--png", type=user_path, metavar="FILE.png", help="also write the held-out curves as a picture")
    parser.add_argument(
        "--label", default="", metavar="KEYS", help="config keys that name the groups, separated by commas"
    )
    parser.add_argument(
        "--by",
        choices=("steps", "sampled_tokens", "optimizer_steps"),
        default="steps",
        help="what several runs are laid along, up to the fewest tokens or optimizer steps of one (default: steps)",
    )
    parser.add_argument(
        "--against", type=user_path, metavar="RUN", help="of the group to compare with (default: of the first run)"
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args(arguments)

    def write() -> None:
        from rlhf.report.against import baseline_of
        from rlhf.report.comparison_page import write_comparison
        from rlhf.report.over_seeds import read_groups
        from rlhf.report.picture import write_png
        from rlhf.report.run_page import write_report

        keys = [key.strip() for key in options.label.split(",") if key.strip()]
        baseline_of(
            read_groups(options.runs, keys, by=options.by), options.against
        )  # nothing is written if a run or a label is wrong
        if len(options.runs) == 1:
            [run] = options.runs
            print(write_report(run, options.output))
        else:
            output = options.output or options.runs[0].resolve().parent / "comparison.html"
            print(write_comparison(options.runs, output, keys, by=options.by, against=options.against))
        if options.png:
            print(write_png(options.runs, options.png, keys, by=options.by))

    return run_main(write, debug=options.debug)


if __name__ == "__main__":
    sys.exit(main())
