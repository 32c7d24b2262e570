"""Names the bank of a recipe: whoever would make the same rows, to the last bit, finds them under its name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tgt_ray.core.environment import version
from tgt_ray.core.fingerprint import digest
from tgt_ray.teacher.bank.numbering import SHARES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tgt_ray.teacher.explorers import Explorer
    from tgt_ray.teacher.generators import Generator
    from tgt_ray.teacher.synthesizer import Recipe

#: Raise it when the code makes other rows from the same settings, so that older ones are not used. A test holds the
#: rows of a request of each explorer and generator against it.
ROWS_VERSION = 1


def machine(threads: int, device: str, libraries: Sequence[str] = ()) -> dict[str, Any]:
    """Return what rows depend on besides their recipe, on this machine, down to the last bit.

    - threads: of the process that makes them
    - device: torch's name of the device that makes them
    - libraries: packages besides torch that make them
    """
    import torch

    kind = torch.cuda.get_device_name() if device.startswith("cuda") else torch.backends.cpu.get_cpu_capability()
    here = {"threads": threads, "device": device.partition(":")[0], "kind": kind, "torch": torch.__version__}
    return {**here, **{name: version(name) for name in libraries}}


def bank_key(
    recipe: Recipe,
    explorer: Explorer,
    generator: Generator,
    made_from: Mapping[str, Any],
    seed: int,
    made_on: Mapping[str, Any],
) -> tuple[str, dict[str, Any]]:
    """Return the name of a bank, and what it follows from, for people.

    The student, the share of synthetic rows and the temperature are no part of it, even where an explorer looks at the
    student: such rows serve other students as well.

    - made_from: the fingerprints of anchors, labeler and generator, and their forms where these aren't the reference
    - seed: of anchors and noise
    - made_on: see `machine`
    """
    about = {
        "rows_version": ROWS_VERSION,
        "explorer": {**explorer.model_dump(mode="json"), "revision": explorer.revision},
        "generator": generator.model_dump(mode="json", exclude={"weights", "pretrain"}) if explorer.decodes else None,
        "signals": [signal.key() for signal in recipe.signals],
        "rows_per_request": recipe.rows,
        "precision": recipe.precision,
        "pixels": recipe.pixels,
        "seed": seed,
        "numbered_by": f"share of the training, of {SHARES}" if explorer.on_policy else "request",
        "made_from": dict(made_from),
        "made_on": dict(made_on),
    }
    return digest("bank", about), about
