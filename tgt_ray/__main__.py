"""`python -m tgt_ray COMMAND`: see `--help`."""

from tgt_ray.entrypoints.cli import main

if __name__ == "__main__":
    main()
