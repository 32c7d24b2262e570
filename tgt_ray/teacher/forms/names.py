"""Names the forms in which a frozen part of a teacher can run, and what it says in one of them. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tgt_ray.core.environment import version
from tgt_ray.core.fingerprint import digest

#: The part as it is: float32, a layer at a time.
REFERENCE = "reference"
#: The other forms, as what is done to the part, in order. folded: batch norms become part of the convolutions before
#: them; bfloat16: autocast; compiled: by torch.compile; openvino: by OpenVINO, in float32.
FORMS = ("folded", "bfloat16", "folded+bfloat16", "compiled", "bfloat16+compiled", "openvino")
#: The labeler must name the same class on at least this percentage of rows.
LEAST_AGREEMENT = 99.5
#: Its probabilities may differ by this mean KL divergence from the reference, in nats (our choice).
MOST_KL = 0.001
#: Its embeddings may differ by this mean of 1 - cosine from the reference (our choice).
MOST_TURNED = 0.001
#: What it takes to be made ready counts once for so many rows (our choice): a run of 1,000 steps takes about as many.
WORK_ROWS = 50_000
#: Raise it when a form computes something else than before, so that what is stored is not used.
REVISION = 1


def forms_of(teacher: Mapping[str, Any]) -> dict[str, str]:
    """Return the form of each part of a teacher that doesn't run as the reference, by role.

    - teacher: its record
    """
    return {role: found["form"] for role, found in teacher.get("forms", {}).items() if found["form"] != REFERENCE}


def form_facts(teacher: Mapping[str, Any]) -> dict[str, Any]:
    """Return what changes the rows of a teacher besides its parts' identities, by role; empty for the reference.

    - teacher: its record
    """
    return {role: teacher["forms"][role]["facts"] for role in forms_of(teacher)}


def facts_of(form: str) -> dict[str, Any]:
    """Return what a form's values follow from, besides the part."""
    library = {"openvino": version("openvino")} if "openvino" in form.split("+") else {}
    return {"form": form, "revision": REVISION, **library}


def speaker(teacher: Mapping[str, Any], role: str) -> str | None:
    """Name what a part says of rows: its identity, with its form where that isn't the reference.

    - teacher: its record
    - returns: None where there is no such part
    """
    if teacher[role] is None:
        return None
    # What the generator says of real rows are their latents, and it always encodes as the reference.
    facts = form_facts(teacher).get(role) if role == "labeler" else None
    identity: str = teacher[role]["identity"]
    return identity if facts is None else digest("form", identity, facts)
