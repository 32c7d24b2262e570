"""`python -m tgt_ray.sweep SWEEP.yaml`: see `--help`. From Python: `tgt_ray.run_sweep`."""

from tgt_ray.entrypoints.cli import main, sweep

if __name__ == "__main__":
    main(sweep)
