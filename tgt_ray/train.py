"""`python -m tgt_ray.train EXPERIMENT.yaml`: see `--help`."""

from tgt_ray.entrypoints.cli import main, train

if __name__ == "__main__":
    main(train)
