"""`python -m simulations`: the demo, the scenarios and the benchmarks; the same as `dewfall` offers."""

from simulations.command_line import main

if __name__ == "__main__":
    main()
